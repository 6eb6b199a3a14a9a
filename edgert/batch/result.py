"""Result: what came of one line, an answer or an error."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Self

from edgert.answering.reply import Reply
from edgert.batch import openai
from edgert.batch.line import Line
from edgert.bundle.record import OneOf

ENDS = ("stop", "length", "loop", "")


@dataclass(frozen=True)
class Result:
    """What came of the line of that number. `created`: when, in seconds since 1970.

    `error` says in a line why there is no answer; the rest is then empty.
    """

    number: int
    created: int
    text: str = ""
    thinking: str = ""
    finish_reason: Annotated[str, OneOf(ENDS)] = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    error: str | None = None

    @classmethod
    def of(cls, line: Line, reply: Reply) -> Self:
        """The result of an answer that has ended by itself."""
        counts = reply.timings
        return cls(
            line.number,
            int(time.time()),
            reply.text,
            reply.thinking,
            reply.finish_reason,
            counts.prompt_tokens,
            counts.answer_tokens,
        )

    @classmethod
    def failure(cls, line: Line, error: str) -> Self:
        """The result of a line that can't be answered."""
        return cls(line.number, int(time.time()), error=error)

    def row(self, line: Line, model: str) -> dict[str, Any]:
        """As the output file holds it, in the format that the line came in."""
        if line.openai:
            return openai.response(str(line.id), self, model)
        if self.error is not None:
            return {"id": line.id, "error": self.error}
        thought = {"thinking": self.thinking} if self.thinking else {}
        return {
            "id": line.id,
            "text": self.text,
            **thought,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
        }
