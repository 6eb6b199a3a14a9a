"""Talks: the sessions that people talk in, open while their model is loaded."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from edgert.answering.conversation import Conversation
from edgert.answering.session import Session
from edgert.chat import sessions
from edgert.chat.sessions import KeptSession
from edgert.errors import EdgertError, UsageError
from edgert.model import Model
from edgert.text.template import Message
from edgert.text.thinking import Thinking

MOST_OPEN = 64  # the last ones
NAME_WORDS, NAME_LETTERS = 6, 48  # of the first question, for the name of a session


@dataclass(frozen=True)
class Talk:
    """A conversation with a model, kept under a name."""

    name: str
    model: Model
    conversation: Conversation

    def goes_on_with(self, model: Model) -> bool:
        """Whether it is still as it was left: with this model, and nobody else has gone on with it."""
        kept = self.conversation.session
        return self.model is model and kept is not None and kept.current


class Talks:
    """For one event loop. What is open keeps its row of the cache, if others don't need it."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Talk] = OrderedDict()
        self._begun: set[str] = set()  # names that are given, and may not be on disk yet
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def begun(self, question: str) -> Iterator[str]:
        """A name for a new conversation. It is free again if the question was refused."""
        name = name_for(question, self._begun | self._open.keys())
        self._begun.add(name)
        try:
            yield name
        except EdgertError:
            self._open.pop(name, None)
            raise
        finally:
            self._begun.discard(name)  # from now on it is found on disk, or open

    def turn(self, name: str) -> asyncio.Lock:
        """Held while a question is begun by threads: a conversation is for one at a time."""
        return self._turns.setdefault(name, asyncio.Lock())

    def open(self, name: str, model: Model, system: str | None) -> Talk:
        """Go on with a session, or begin one. Reads from disk: for a thread. Raises UsageError."""
        known = self._open.get(name)
        if known and known.goes_on_with(model):
            self._open.move_to_end(name)
            return known
        folder = sessions.folder(name)
        begun = Session(folder).messages
        system = None if begun else system
        conversation = model.conversation(system, session=folder, overflow="drop-oldest-turns")
        self._open[name] = talk = Talk(name, model, conversation)
        self._open.move_to_end(name)
        self._begun.discard(name)  # from now on it is found on disk, or open
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return talk

    def forget(self, name: str) -> None:
        """It is going, or gets another name. Raises UsageError while it is being answered."""
        if (known := self._open.get(name)) and known.conversation.answering:
            raise UsageError(f"{name} is being answered: stop that first")
        self._open.pop(name, None)

    def let_go(self, model: Model) -> None:
        """A model is put away: nothing must keep its memory."""
        for name in [name for name, talk in self._open.items() if talk.model is model]:
            del self._open[name]


def name_for(question: str, begun: Set[str] = frozenset()) -> str:
    """A name of its first words that no session has yet, and none that has `begun`."""
    words = re.findall(r"\w+", question.lower())[:NAME_WORDS]
    base = "-".join(words)[:NAME_LETTERS].strip("-_") or "conversation"
    taken = {kept.name for kept in sessions.kept()} | begun
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (base, *numbered) if name not in taken)


def listed() -> list[dict[str, Any]]:
    """All sessions, the last used first."""
    return [{"name": kept.name, "used": kept.used.isoformat()} for kept in sessions.kept()]


def shown(name: str) -> dict[str, Any]:
    """What was said. Raises UsageError."""
    return {"name": name, "messages": [_shown(message) for message in sessions.named(name).open().messages]}


def rename(name: str, to: str) -> None:
    """Raises UsageError, also if there is one of that name."""
    kept, target = sessions.named(name), sessions.folder(to)
    if target.exists():
        raise UsageError(f"there is a conversation called {to} already")
    try:
        kept.folder.rename(target)
    except OSError as error:
        raise UsageError(f"can't rename {name}: {error.strerror or error}") from error


def remove(name: str) -> KeptSession:
    """Raises UsageError."""
    kept = sessions.named(name)
    kept.remove()
    return kept


def before(messages: Sequence[Message], turns: int) -> list[Message]:
    """The system prompt, if any, and so many of the messages after it. Raises UsageError."""
    head = [message for message in messages[:1] if message["role"] == "system"]
    rest = messages[len(head) :]
    if not 0 <= turns <= len(rest):
        raise UsageError(f"after: this conversation has {len(rest)} messages, not {turns}")
    return [*head, *rest[:turns]]


def _shown(message: Message) -> dict[str, Any]:
    """With the thought apart."""
    content = message["content"]
    if message["role"] != "assistant" or not isinstance(content, str):
        return {"role": message["role"], "content": content}
    thinking = Thinking()
    parts = thinking.push(content), thinking.push(""), thinking.flush()
    told = {
        channel: "".join(part for at, part in parts if at == channel) for channel in ("thinking", "answer")
    }
    return {"role": "assistant", "content": told["answer"], "thinking": told["thinking"]}
