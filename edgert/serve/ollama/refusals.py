"""Errors as Ollama's clients expect them."""

from __future__ import annotations

from edgert.serve.endpoint import Refusal
from edgert.serve.outgoing import LINES, Outgoing


class Ollama:
    """How their API tells a refusal."""

    media_type = LINES

    def refusal(self, refusal: Refusal) -> object:
        return {"error": refusal.message}

    async def broken_off(self, refusal: Refusal, out: Outgoing) -> None:
        await out.line(self.refusal(refusal))
