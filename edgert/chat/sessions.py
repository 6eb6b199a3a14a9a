"""Sessions of the chat: conversations by name, in the user's state folder."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgert import home
from edgert.answering.session import TEXT, Session
from edgert.errors import UsageError
from edgert.suggestion import did_you_mean

UNNAMED = 30  # conversations without a name that are kept
UNNAMED_NAME = r"chat-\d{4}-\d\d-\d\d-\d{6}(-\d+)?"
NAME = r"[\w][\w.-]{0,79}"


@dataclass(frozen=True)
class KeptSession:
    """One on disk. `folder` holds its text, and keys and values."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def used(self) -> datetime:
        """When its last turn ended."""
        return datetime.fromtimestamp((self.folder / TEXT).stat().st_mtime).astimezone()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def open(self) -> Session:
        """Raises UsageError if its text can't be read."""
        return Session(self.folder)

    def remove(self) -> None:
        """Raises UsageError."""
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise UsageError(f"can't remove {self.folder}: {error}") from error


def folder(name: str) -> Path:
    """Where a session of this name is, or will be. Raises UsageError for what is no name."""
    if not re.fullmatch(NAME, name):
        raise UsageError(f"'{name}' is no name of a session: use letters, digits, '.', '-' and '_'")
    return home.state_folder() / "sessions" / name


def new() -> Path:
    """Where a conversation is kept that was given no name: under the time that it began."""
    now = datetime.now().strftime("chat-%Y-%m-%d-%H%M%S")
    later = (f"{now}-{number}" for number in range(2, 100))
    return next(place for name in (now, *later) if not (place := folder(name)).exists())


def thin_out(most: int = UNNAMED) -> None:
    """Remove the oldest of those without a name, so that fewer than `most` stay. Raises UsageError."""
    unnamed = [session for session in kept() if re.fullmatch(UNNAMED_NAME, session.name)]
    for session in unnamed[most - 1 :]:
        session.remove()


def kept() -> list[KeptSession]:
    """All of them, the last used first."""
    found = [KeptSession(path.parent) for path in (home.state_folder() / "sessions").glob(f"*/{TEXT}")]
    return sorted(found, key=lambda session: session.used, reverse=True)


def named(name: str) -> KeptSession:
    """Raises UsageError if there is none."""
    found = KeptSession(folder(name))
    if not (found.folder / TEXT).is_file():
        meant = did_you_mean(name, [session.name for session in kept()])
        raise UsageError(f"no session '{name}'{meant or '; `edgert sessions` shows what is kept'}")
    return found


def last() -> KeptSession:
    """The one to go on with. Raises UsageError if there is none."""
    found = kept()
    if not found:
        raise UsageError("no session is kept yet: edgert chat --session NAME begins one")
    return found[0]
