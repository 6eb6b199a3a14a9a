"""A 64-bit Arm Linux under qemu-user: Debian's own Python and the real aarch64 wheels, on any processor.

python benchmarks/userland.py     # installs the tools where it may, builds the folder; says what is missing
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click

from edgert import home

# Programs, and the Debian packages that bring them.
TOOLS = {"qemu-aarch64-static": "qemu-user-static", "debootstrap": "debootstrap", "dpkg-deb": "dpkg"}
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PACKAGES = ("python3", "libstdc++6", "libgomp1")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64")
CORES = 4  # of every board
DESCRIPTIONS = Path(__file__).parent.parent / "tests" / "data" / "boards"


@dataclass(frozen=True)
class Board:
    """A board as its own system describes it, and what qemu calls its core."""

    name: str
    core: str

    @property
    def cpuinfo(self) -> str:
        return (DESCRIPTIONS / self.name / "cpuinfo").read_text("ascii")

    @property
    def model(self) -> str:
        """As in the device tree, with its final NUL."""
        return (DESCRIPTIONS / self.name / "model").read_text("ascii") + "\0"


PI_5 = Board("raspberry-pi-5", "cortex-a76")
PI_4 = Board("raspberry-pi-4", "cortex-a72")
ZERO_2_W = Board("raspberry-pi-zero-2-w", "cortex-a53")


class Userland:
    """Runs Python as on a board, with this edgert. `scratch` is a folder for what belongs to one run."""

    def __init__(self, scratch: Path) -> None:
        self._base = obtain()
        self._scratch = scratch
        _link_edgert(scratch / "edgert")

    def python(self, board: Board, *arguments: str | Path, **environment: str) -> str:
        """What Python prints; nothing of this machine's environment reaches it."""
        root = self._root(board)
        python = root / "usr" / "bin" / os.readlink(root / "usr" / "bin" / "python3")
        command = ["qemu-aarch64-static", "-cpu", board.core, "-L", root, python, "-s", "-P", *arguments]
        own = {
            "PATH": SEARCHED,
            "HOME": str(self._scratch),
            "EDGERT_HOME": str(self._scratch / "home"),
            "PYTHONPATH": os.pathsep.join(map(str, (self._scratch, self._base / "site"))),
            "ORT_DISABLE_TELEMETRY": "1",
        }
        return run(*command, environment={**own, **environment})

    def _root(self, board: Board) -> Path:
        """The system folder of a board. qemu looks up every path there first, so no file here needs to be
        replaced: without an Arm /proc and /sys onnxruntime reads those of x86 and crashes at import.
        """
        root = self._scratch / board.name
        if not root.exists():
            _write(root / "proc" / "cpuinfo", board.cpuinfo)
            _write(root / "proc" / "device-tree" / "model", board.model)
            processors = root / "sys" / "devices" / "system" / "cpu"
            for name in ("possible", "present", "online"):
                _write(processors / name, f"0-{CORES - 1}\n")
            for core in range(CORES):
                _write(processors / f"cpu{core}" / "topology" / "thread_siblings_list", f"{core}\n")
            for name in ("usr", "lib"):
                (root / name).symlink_to(self._base / "root" / name)
        return root


def unavailable() -> str | None:
    """Why there can be no userland on this machine, in words; None if there can."""
    if sys.platform != "linux":
        return "qemu-user needs Linux"
    if missing := _missing():
        return f"needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
    if _mirror() is None:
        return "needs Debian's own package lists: apt-get update on a Debian machine"
    return None


def obtain() -> Path:
    """The folder with Debian's files (`root`) and the wheels (`site`), built on first use (a minute)."""
    folder = home.home() / "arm64" / f"onnxruntime-{importlib.metadata.version('onnxruntime')}"
    if not folder.exists():
        print(f"Building an arm64 userland in {folder} …", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(temporary) / "whole"
            _unpack_debian(Path(temporary) / "debs", whole / "root")
            _install_wheels(whole)
            whole.rename(folder)
    return folder


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """What a command prints, or a RuntimeError with what it said."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment or {**os.environ, "PATH": SEARCHED},
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {said}")
    return done.stdout


def _missing() -> list[str]:
    """Debian packages to install."""
    return [package for tool, package in TOOLS.items() if not shutil.which(tool, path=SEARCHED)]


def _mirror() -> tuple[str, str] | None:
    """Release name and address of Debian's packages, as this machine's apt has them."""
    if not shutil.which("apt-get", path=SEARCHED):
        return None
    wanted = ("Created-By: Packages", "Label: Debian", "Component: main")
    found = run("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", *wanted).splitlines()
    stable = [line.split() for line in found if "-" not in line.split()[0]]
    return (stable[0][0], stable[0][1]) if stable else None


def _unpack_debian(debs: Path, root: Path) -> None:
    """Debian's files, unpacked only: nothing of them runs here."""
    mirror = _mirror()
    if mirror is None:
        raise RuntimeError("apt knows no Debian mirror")
    release, address = mirror
    # debootstrap insists on root, downloads don't need it.
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    options = ["--arch=arm64", "--variant=minbase", "--download-only", f"--include={','.join(PACKAGES)}"]
    run(*as_root, "debootstrap", *options, release, debs, address)
    root.mkdir(parents=True)
    for deb in sorted((debs / "var" / "cache" / "apt" / "archives").glob("*.deb")):
        run("dpkg-deb", "--extract", deb, root)
    for unused in ("share/doc", "share/locale", "share/man"):
        shutil.rmtree(root / "usr" / unused, ignore_errors=True)


def _install_wheels(folder: Path) -> None:
    """What edgert needs at run time, with the onnxruntime that is installed here."""
    python = os.readlink(folder / "root" / "usr" / "bin" / "python3").removeprefix("python")
    needed = [line for line in importlib.metadata.requires("edgert") or () if "extra ==" not in line]
    needed.append(f"onnxruntime=={importlib.metadata.version('onnxruntime')}")
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--target", str(folder / "site")]
    run(*pip, *target, *platforms, *needed)


def _link_edgert(package: Path) -> None:
    """edgert and edgert.devices as one package: an editable install keeps their folders apart."""
    package.mkdir(parents=True)
    devices = Path(str(resources.files("edgert.devices")))
    for entry in (*Path(str(resources.files("edgert"))).iterdir(), devices):
        link = package / entry.name
        if not link.exists():
            link.symlink_to(entry)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "ascii")


def _install_tools() -> None:
    """With apt, if this is root or sudo asks for no password."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get", path=SEARCHED) or (sudo and not shutil.which("sudo")):
        return
    try:
        run(*sudo, "apt-get", "update", "--quiet")
        run(*sudo, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *_missing())
    except RuntimeError as error:
        click.echo(f"arm64: {error}", err=True)


@click.command()
def main() -> None:
    """Prepare what `make test-arm64` needs; one line says why not, if that can't be."""
    if sys.platform == "linux" and (_missing() or _mirror() is None):
        _install_tools()
    reason = unavailable()
    if reason:
        raise click.ClickException(f"arm64 {reason}")
    click.echo(f"arm64: {obtain()}")


if __name__ == "__main__":
    main()
