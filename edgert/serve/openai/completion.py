"""Completion: one answer to messages in OpenAI's words, whole or in pieces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from edgert.answering.reply import Chunk, Reply, Timings
from edgert.batch.openai import REASONS
from edgert.serve.openai.likelihoods import entry
from edgert.text.tokenizer import Tokenizer


class Completion:
    """`tokenizer` spells tokens where their likelihoods are asked for. `tells_usage`: see `StreamOptions`."""

    def __init__(self, model: str, tokenizer: Tokenizer | None = None, *, tells_usage: bool = False) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer
        self._usage = {"usage": None} if tells_usage else {}
        self._likelihoods: list[dict[str, Any]] = []  # of tokens whose text no piece has had yet

    def whole(self, chunks: Sequence[Chunk], reply: Reply) -> dict[str, Any]:
        """All of it."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.thinking:
            message["reasoning_content"] = reply.thinking  # as DeepSeek's API calls it
        if reply.tool_calls:
            calls = [call.to_json() for call in reply.tool_calls]
            message = {**message, "content": reply.text or None, "tool_calls": calls}
        for chunk in chunks:
            self._hold(chunk)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(),
            "finish_reason": reason(chunks[-1]),
        }
        told = {"choices": [choice], "usage": usage(reply.timings)}
        return {**self._head, "object": "chat.completion", **told}

    def opening(self) -> dict[str, Any]:
        """The first piece: who speaks."""
        return self._piece({"role": "assistant", "content": ""})

    def pieces(self, chunk: Chunk) -> list[dict[str, Any]]:
        """What a chunk adds: nothing while a character is incomplete."""
        self._hold(chunk)
        pieces = []
        if chunk.text:
            name = "reasoning_content" if chunk.channel == "thinking" else "content"
            pieces.append(self._piece({name: chunk.text}))
        if chunk.tool_calls:
            calls = [{"index": number, **call.to_json()} for number, call in enumerate(chunk.tool_calls)]
            pieces.append(self._piece({"tool_calls": calls}))
        if chunk.finish_reason:
            pieces.append(self._piece({}, reason(chunk)))
        return pieces

    def ending(self, timings: Timings) -> dict[str, Any]:
        """The last piece, where usage is asked for."""
        told = {"choices": [], "usage": usage(timings)}
        return {**self._head, "object": "chat.completion.chunk", **told}

    def _piece(self, delta: dict[str, Any], ended: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": self._logprobs(), "finish_reason": ended}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **self._usage}

    def _hold(self, chunk: Chunk) -> None:
        """Likelihoods are of the answer only, not of a thought."""
        if self._tokenizer and chunk.token and chunk.channel == "answer":
            self._likelihoods.append(entry(chunk.token, self._tokenizer))

    def _logprobs(self) -> dict[str, Any] | None:
        if not (self._tokenizer and self._likelihoods):
            return None
        held, self._likelihoods = self._likelihoods, []
        return {"content": held, "refusal": None}


def reason(last: Chunk) -> str:
    """Why it ended, in their words."""
    if last.tool_calls and last.finish_reason == "stop":
        return "tool_calls"
    return REASONS[last.finish_reason or "stop"]


def usage(timings: Timings) -> dict[str, Any]:
    """Tokens."""
    asked, answered = timings.prompt_tokens, timings.answer_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": timings.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": timings.thinking_tokens,
            "accepted_prediction_tokens": timings.accepted_tokens,
            "rejected_prediction_tokens": timings.drafted_tokens - timings.accepted_tokens,
        },
    }
