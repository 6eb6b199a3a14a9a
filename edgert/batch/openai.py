"""OpenAI's batch format: a request to their chat API per line, and a response per line.

As described at https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgert.errors import UsageError

if TYPE_CHECKING:
    from edgert.batch.result import Result

URL = "/v1/chat/completions"
ABOUT_THE_CALLER = ("model", "user", "metadata", "store")  # who answers is the bundle
ONE_OF_THESE = {"n": (1, None), "stream": (False, None), "logprobs": (False, None), "top_logprobs": (0, None)}
# Why an answer ended, as their API calls it.
REASONS = {"stop": "stop", "length": "length", "loop": "length"}


@dataclass(frozen=True)
class Asked:
    """What a request asks for: messages as they came, options by our names, not checked yet."""

    custom_id: str
    messages: object
    options: Mapping[str, Any]


def is_request(entry: Mapping[str, Any]) -> bool:
    """Whether a line is one of theirs."""
    return "body" in entry or "custom_id" in entry


def read(entry: Mapping[str, Any]) -> Asked:
    """A line of theirs. Raises UsageError for what can't be answered as asked."""
    custom_id, body = entry.get("custom_id"), entry.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise UsageError(f'"custom_id" must be a text that is not empty, not {custom_id!r}')
    if entry.get("method", "POST") != "POST" or entry.get("url", URL) != URL:
        raise UsageError(f'only "method": "POST" to "url": "{URL}" is answered, not to {entry.get("url")!r}')
    if not isinstance(body, dict) or "messages" not in body:
        raise UsageError('"body" must be a table with "messages"')
    return Asked(custom_id, body["messages"], _options(body))


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in body.items() if name not in (*ABOUT_THE_CALLER, "messages")}
    for name, possible in ONE_OF_THESE.items():
        if (value := options.pop(name, None)) not in possible:
            raise UsageError(f'"{name}" can only be {possible[0]!r} in a batch, not {value!r}')
    if (limit := options.pop("max_completion_tokens", None)) is not None:
        options["max_tokens"] = limit
    if (form := options.pop("response_format", None)) is not None:
        options.update(form_options(form))
    return options


def form_options(form: object) -> dict[str, Any]:
    """Ours for their `response_format`. Raises UsageError."""
    match form:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"json_schema": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"json_schema": schema}
    raise UsageError(f'"response_format" must be of type text, json_object or json_schema, not {form!r}')


def response(custom_id: str, result: Result, model: str) -> dict[str, Any]:
    """A result as a line of theirs; `model` is the bundle's name."""
    row = {"id": f"batch_req_{result.number}", "custom_id": custom_id}
    if result.error is not None:
        return {**row, "response": None, "error": {"code": "edgert_error", "message": result.error}}
    message = {"role": "assistant", "content": result.text}
    if result.thinking:
        message["reasoning_content"] = result.thinking  # as DeepSeek's API calls it
    reason = REASONS[result.finish_reason]
    body = {
        "id": f"chatcmpl-{result.number}",
        "object": "chat.completion",
        "created": result.created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.answer_tokens,
            "total_tokens": result.prompt_tokens + result.answer_tokens,
        },
    }
    return {
        **row,
        "response": {"status_code": 200, "request_id": f"req_{result.number}", "body": body},
        "error": None,
    }
