"""The shelf: what is kept in edgert's home, bundles and the checkpoints that `pull` got."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgert import home
from edgert.bundle import MACHINE, MANIFEST, Manifest
from edgert.bundle.manifest import read_manifest
from edgert.errors import EdgertError

USED = f"{MACHINE}/used"  # an empty file: its time is that of the last use
PARTIAL = ".partial"  # how the name of a download that was broken off ends
REMOVED = ".removed"  # and that of what is being removed


@dataclass(frozen=True)
class Kept:
    """One folder on the shelf."""

    name: str
    folder: Path

    @property
    def size(self) -> int:
        """Bytes on disk, with what was made on this machine; a link takes none."""
        return 0 if self.folder.is_symlink() else sum(_sizes(self.folder))

    def remove(self) -> None:
        """Remove the folder, not what a link leads to. Raises EdgertError; then nothing is gone."""
        if self.folder.is_symlink():
            self.folder.unlink()
            return
        aside = self.folder.with_name(f".{self.folder.name.lstrip('.')}{REMOVED}")
        shutil.rmtree(aside, ignore_errors=True)  # of a removal that was broken off
        try:
            self.folder.rename(aside)  # first: what is half removed bears no name that anybody opens
        except OSError as error:
            raise EdgertError(f"can't remove {self.folder}: {error.strerror}") from error
        shutil.rmtree(aside)


class KeptBundle(Kept):
    """A bundle, or what is left of one."""

    @property
    def last_used(self) -> datetime | None:
        """When it was last loaded; None if that was never, or could not be noted."""
        try:
            return datetime.fromtimestamp((self.folder / USED).stat().st_mtime, UTC)
        except OSError:
            return None

    def manifest(self) -> Manifest:
        """Raises BundleError."""
        return read_manifest(self.folder / MANIFEST)


class KeptCheckpoint(Kept):
    """What `pull` downloaded, to export it from."""

    @property
    def whole(self) -> bool:
        """Whether it is all there, as opposed to a download that was broken off and can be resumed."""
        return not self.folder.name.endswith(PARTIAL)


def bundles() -> list[KeptBundle]:
    """Those in the home, by name; damaged ones, too."""
    return [KeptBundle(name, folder) for name, folder in sorted(_folders(home.home() / home.BUNDLES))]


def checkpoints() -> list[KeptCheckpoint]:
    """Those in the home, by name, whole ones or not."""
    return [KeptCheckpoint(name, folder) for name, folder in sorted(_folders(home.home() / home.CHECKPOINTS))]


def note_use(folder: Path) -> None:
    """Note that a bundle is used now, if it is on the shelf and can be written to."""
    if folder.parent != home.home() / home.BUNDLES:
        return
    with contextlib.suppress(OSError):  # a read-only disk: only the date is not known
        note = folder / USED
        note.parent.mkdir(exist_ok=True)
        note.touch()


def _folders(shelf: Path) -> Iterator[tuple[str, Path]]:
    """Names and folders. Hidden folders are of work in progress, but for downloads that can be resumed."""
    if not shelf.is_dir():
        return
    for folder in shelf.iterdir():
        if not folder.is_dir():
            continue
        if not folder.name.startswith("."):
            yield home.kept_name(folder.name), folder
        elif folder.name.endswith(PARTIAL):
            yield home.kept_name(folder.name.removeprefix(".").removesuffix(PARTIAL)), folder


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                yield os.lstat(Path(place) / name).st_size
