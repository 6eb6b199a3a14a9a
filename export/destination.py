"""Destination: the folder a bundle is to become, checked first, written aside, renamed when it is whole.

Aside is a hidden folder beside the destination; it is gone after an error, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgert.bundle import (
    CHAT_TEMPLATE,
    DATA,
    GENAI_CONFIG,
    GENAI_GRAPH,
    GOLDEN,
    MACHINE,
    MANIFEST,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from edgert.bundle.graph_io import KV_KINDS
from edgert.bundle.manifest import names_listed
from edgert.errors import UsageError

from .signals import ended_by_signals

BUNDLE_FILES = (
    GENAI_GRAPH,
    GENAI_CONFIG,
    DATA,
    TOKENIZER,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    GOLDEN,
    MANIFEST,
)
FILE_MANAGER_FILES = (".ds_store", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Destination:
    """A folder as the user typed it, and where that is once links are followed."""

    typed: Path
    real: Path

    @contextmanager
    def written_aside(self, *, force: bool) -> Iterator[Path]:
        """A temporary folder that becomes the destination if the block succeeds. Raises UsageError."""
        self._check_free(force)
        with ended_by_signals():
            aside = self._aside()
            try:
                yield aside
                aside.chmod(0o755)
                self._check_free(force)  # an hour may have passed
                _swap(aside, self.real)
            except OSError as error:
                if str(error.filename or "").startswith(str(aside)) or error.errno == errno.ENOSPC:
                    raise self._unwritable(error) from error
                raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _aside(self) -> Path:
        parent = self.real.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f".{self.real.name}.", dir=parent))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"can't write {self.typed}: {error.strerror} in {self.real.parent}")

    def _check_free(self, force: bool) -> None:
        """Only a bundle, and nothing but a bundle, is ever replaced."""
        if not self.real.exists():
            return
        if not force:
            raise UsageError(
                f"{self.typed} exists already: choose another place, or pass --force to replace it"
            )
        if not (self.real / MANIFEST).exists():
            raise UsageError(f"{self.typed} exists and is not a bundle: --force replaces bundles only")
        listed = names_listed(self.real / MANIFEST)
        files = [path for path in self.real.rglob("*") if not path.is_dir()]
        names = [path.relative_to(self.real).as_posix() for path in files]
        foreign = sorted(name for name in names if name not in listed and not _may_go(name))
        if foreign:
            raise UsageError(
                f"{self.typed} holds '{foreign[0]}', which is not part of a bundle: move it first"
            )


def destination(typed: Path) -> Destination:
    """The destination of a path. Raises UsageError for a path that no bundle can have."""
    try:
        real = typed.resolve()
        str(real).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{str(typed)!r} is not valid UTF-8: choose another place") from error
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{typed} can't be followed to a place: {error}") from error
    if real.is_symlink():
        raise UsageError(f"{typed} is a link that leads to itself: choose another place")
    return Destination(typed, real)


def _may_go(name: str) -> bool:
    """Whether a file may go with the bundle whose folder it is in: ours, or left by looking at the folder."""
    base = name.rpartition("/")[2]
    if base.lower() in FILE_MANAGER_FILES or base.startswith("._"):  # the latter: macOS on foreign disks
        return True
    suffixes = "|".join(kind.suffix for kind in KV_KINDS.values())
    graph = rf"model(-rows8|-blocks[48])?({suffixes})\.onnx"
    made_there = name.startswith(f"{MACHINE}/")
    return made_there or name in BUNDLE_FILES or re.fullmatch(graph, name) is not None


def _swap(aside: Path, folder: Path) -> None:
    """Put the new folder in place; whatever happens, the old or the new one stands."""
    if not folder.exists():
        aside.rename(folder)
        return
    old = aside.with_name(f"{aside.name}.old")
    folder.rename(old)
    try:
        aside.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
