"""Journal: the answers so far, in a file beside the output that survives whatever stops the run.

A line for each answer, as soon as it is there. A process that is killed loses none; a machine that loses
power loses those of the last second, which are then answered again. What a kill has cut off is cut away.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from edgert.batch.result import Result
from edgert.bundle.record import read_record
from edgert.errors import EdgertWarning, UsageError
from edgert.file_lock import file_lock
from edgert.saving import save_text

SYNC_S = 1.0  # between two fsyncs: one takes milliseconds, on SD cards up to a second


@dataclass(frozen=True)
class Binding:
    """What answers depend on. `prompts` and `bundle` are SHA-256s, `options` those of all lines as JSON."""

    prompts: str
    bundle: str
    options: str


@dataclass(frozen=True)
class Files:
    """The output, and what lies beside it until it is complete."""

    out: Path

    @property
    def journal(self) -> Path:
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def lock(self) -> Path:
        return self.out.with_name(f".{self.out.name}.lock")


class Journal:
    """The answers so far; for one thread. In memory is where each stands in the file, not what it says."""

    def __init__(self, path: Path, binding: Binding) -> None:
        """Go on with the file, or begin it. Raises UsageError if it is bound to something else."""
        self.path = path
        self._places: dict[int, int] = {}
        if not path.exists():
            save_text(path, json.dumps(asdict(binding)) + "\n")
        self._file: IO[bytes] = path.open("r+b")
        try:
            _check(path, self._file.readline(), binding)
            self._end = self._read_back()
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, result: Result) -> None:
        """Keep a result. The first for a line counts. Raises OSError, as where the disk is full."""
        if result.number in self:
            return
        line = (json.dumps(asdict(result)) + "\n").encode()
        self._file.seek(self._end)
        self._file.write(line)
        self._file.flush()
        self._places[result.number] = self._end
        self._end += len(line)
        if time.monotonic() - self._synced >= SYNC_S:
            self._sync()

    def results(self, numbers: Iterable[int]) -> Iterator[Result]:
        """What is kept for these lines, in their order."""
        for number in numbers:
            self._file.seek(self._places[number])
            yield read_record(Result, json.loads(self._file.readline()))

    def close(self) -> None:
        """Make sure of all that was added, and let go of the file."""
        with self._file:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _read_back(self) -> int:
        """Find the results that are there; the place behind the last that is whole."""
        end = self._file.tell()
        for line in self._file:
            try:
                result = read_record(Result, json.loads(line))
            except (ValueError, RecursionError):
                return end
            if not line.endswith(b"\n"):
                return end
            self._places.setdefault(result.number, end)
            end += len(line)
        return end


@contextlib.contextmanager
def open_journal(files: Files, binding: Binding) -> Iterator[Journal]:
    """The journal beside an output, for one process at a time; it stays when the block ends.

    Raises UsageError if another process has it, or if it is of other prompts, bundle or options.
    """

    def waiting() -> None:
        raise UsageError(f"another process is writing {files.out}: wait for it, or give another file")

    with file_lock(files.lock, waiting) as alone:
        if not alone:
            told = "files can't be locked there; make sure that no other process writes it"
            warnings.warn(f"{files.out}: {told}", EdgertWarning, stacklevel=3)
        with contextlib.closing(Journal(files.journal, binding)) as journal:
            yield journal


def _check(path: Path, header: bytes, binding: Binding) -> None:
    """Raises UsageError unless the journal is of these prompts, this bundle and these options."""
    try:
        kept = read_record(Binding, json.loads(header))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no file of edgert batch: give another output, or remove it") from error
    changed = next((name for name in asdict(kept) if getattr(kept, name) != getattr(binding, name)), None)
    if changed is None:
        return
    what = {
        "prompts": "to other prompts: the file has changed since",
        "bundle": "of another bundle",
        "options": f"with other options, {kept.options}",
    }
    raise UsageError(
        f"{path} has answers {what[changed]}. To go on, give what was given then; to begin anew, remove it"
    )
