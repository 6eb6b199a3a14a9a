"""Conversation: the messages of a chat, saved and loaded as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from edgert.errors import UsageError
from edgert.saving import save_text
from edgert.text.template import Message, check_messages


@dataclass
class Conversation:
    """A system prompt, if any, and the turns after it, user and assistant in turn."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """What the chat template is given."""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def take_back_question(self) -> str:
        """Remove the last question and all after it, and return it. Raises UsageError if there is none."""
        for i in range(len(self.turns) - 1, -1, -1):
            if self.turns[i]["role"] == "user":
                question = self.turns[i]["content"]
                del self.turns[i:]
                return question
        raise UsageError("there is no question yet")

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises UsageError."""
        save_text(path, json.dumps({"messages": self.messages}, indent=2, ensure_ascii=False) + "\n")


def load(path: Path) -> Conversation:
    """Read a saved conversation. Raises UsageError."""
    try:
        messages = json.loads(path.read_text("utf-8"))["messages"]
        check_messages(messages)
    except OSError as error:
        raise UsageError(f"can't load {path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a saved conversation: {error}") from error
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = [{"role": m["role"], "content": m["content"]} for m in messages[1 if system is not None else 0 :]]
    return Conversation(system, turns)
