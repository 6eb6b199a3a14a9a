"""Thinking: what stands between <think> and </think> before an answer, told apart from it.

Who opens a thought differs: the chat template at the end of the prompt (R1), or the model (Qwen3).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgert.text.stops import overlap

Channel: TypeAlias = Literal["thinking", "answer"]

THINKING, ANSWERING = "<think>", "</think>"
TAGS = (THINKING, ANSWERING)
OPENED = f"{THINKING}\n"  # as R1's template ends
CLOSING = f"\n{ANSWERING}\n\n"
NO_THOUGHT = f"{THINKING}\n{CLOSING}"  # what Qwen3's template writes where thinking is off


def opening(prompt: str) -> str:
    """The end of a prompt from the tag that opens a thought; empty if none is open there."""
    opened = prompt.rstrip().endswith(THINKING)
    return prompt[prompt.rindex(THINKING) :] if opened else ""


def without_thought(text: str) -> str:
    """The answer alone, of what a model that thinks has written."""
    thinking = Thinking()
    parts = thinking.push(text), thinking.push(""), thinking.flush()
    return "".join(part for channel, part in parts if channel == "answer")


class Thinking:
    """Tells the thought from the answer, as text arrives: one thought at most, at the very beginning.

    `opened`: how the prompt opened the thought. Tags, and the newlines around the thought, belong to neither.
    A <think> that comes later is text, and all is where a model doesn't think.
    """

    def __init__(self, opened: str = "", *, thinks: bool = True) -> None:
        unknown: Channel | None = None if thinks else "answer"
        self.channel: Channel | None = "thinking" if opened else unknown
        self._held = ""
        self._first = thinks  # nothing but newlines since the last tag
        self._thought = opened  # with its tags and newlines, as the model wrote it

    def push(self, text: str) -> tuple[Channel, str]:
        """The text that became certain, and its channel. What follows a tag may wait for the next push."""
        text, self._held = self._held + text, ""
        if self.channel is None:
            text = self._begin(text)
        if self.channel == "thinking":
            return "thinking", self._think(text)
        return "answer", self._answer(text) if self.channel else ""

    def flush(self) -> tuple[Channel, str]:
        """What was held back, once nothing follows it."""
        held, self._held = self._held, ""
        if self.channel == "thinking":
            self._thought += held
            return "thinking", self._trimmed(held).rstrip("\n")
        return "answer", self._answer(held) if self.channel else held

    def whole(self, answer: str) -> str:
        """Thought and answer as the model wrote them, with the tags; a thought that was cut is closed."""
        return self._thought + (CLOSING if self.channel == "thinking" else "") + answer

    def _begin(self, text: str) -> str:
        """Look for the tag that opens a thought; what follows it, or all of the text if there is none."""
        start = text.lstrip()
        if start.startswith(THINKING):
            self.channel = "thinking"
            rest = start.removeprefix(THINKING)
            self._thought = text[: len(text) - len(rest)]
            return rest
        if THINKING.startswith(start):
            self._held = text
            return ""
        self.channel, self._first = "answer", False
        return text

    def _think(self, text: str) -> str:
        thought, closed, rest = text.partition(ANSWERING)
        if closed:
            self.channel, self._held = "answer", rest
        else:
            # The newlines before the closing tag are held back, too.
            certain = text[: len(text) - overlap(text, ANSWERING)].rstrip("\n")
            thought, self._held = certain, text[len(certain) :]
        self._thought += thought + closed
        shown = self._trimmed(thought)
        if closed:
            self._first = True
            shown = shown.rstrip("\n")
        return shown

    def _answer(self, text: str) -> str:
        shown = self._trimmed(text)
        self._thought += text[: len(text) - len(shown)]
        return shown

    def _trimmed(self, text: str) -> str:
        """Without newlines at the beginning."""
        if self._first:
            text = text.lstrip("\n")
            self._first = not text
        return text
