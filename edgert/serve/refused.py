"""Refused: the response to a request that no endpoint takes, in the words of the API that was asked."""

from __future__ import annotations

from starlette.responses import JSONResponse

from edgert.serve.endpoint import Refusal
from edgert.serve.ollama.refusals import Ollama
from edgert.serve.openai.refusals import OpenAI


def refused(path: str, refusal: Refusal) -> JSONResponse:
    """`path`: what was asked for. Ollama's clients know errors as texts only."""
    dialect = Ollama() if path.startswith("/api/") else OpenAI()
    return JSONResponse(dialect.refusal(refusal), refusal.status, dict(refusal.headers))
