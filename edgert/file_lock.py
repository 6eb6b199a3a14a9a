"""FileLock: one process at a time. The system lets go of it when its process ends, however that ends."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
PAUSE = 0.1  # seconds between two attempts


@contextlib.contextmanager
def file_lock(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs; `waiting` is called once if another process holds it.

    Yields whether it is held: some network file systems know no locks, and keep nobody out. The file stays.
    Raises OSError where it can't be made.
    """
    with path.open("ab") as file:
        yield _held(file.fileno(), waiting)


def _held(descriptor: int, waiting: Callable[[], None]) -> bool:
    said = False
    while True:
        try:
            _try_to_lock(descriptor)
            return True
        except OSError as error:
            if error.errno not in BUSY:
                return False
        if not said:
            waiting()
            said = True
        time.sleep(PAUSE)


def _try_to_lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
