"""Log: a line per question, and per request that was refused, without what was asked and answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeAlias

from edgert.serve.guard import READING
from edgert.serve.record import Record

Form: TypeAlias = Literal["text", "json"]


class Log:
    """A `Note`. `write` gets each line; `form` is for people ("text") or for programs ("json").

    What only reads, such as the page's files, or `/health` every second, gets a line if it was refused.
    """

    def __init__(self, form: Form, write: Callable[[str], object]) -> None:
        self._line = as_text if form == "text" else as_json
        self._write = write

    def __call__(self, record: Record) -> None:
        if record.method not in READING or record.status >= 400:
            self._write(self._line(record))


def as_text(record: Record) -> str:
    """For people."""
    at = datetime.fromtimestamp(record.began).strftime("%H:%M:%S")
    line = f"{at} {record.status} {record.address} {record.model or '-'} {record.seconds:.2f} s"
    if timings := record.timings:
        line += (
            f", {timings.prompt_tokens} tokens read ({timings.cached_tokens} cached), "
            f"{timings.answer_tokens} written, first after {timings.time_to_first_token_s:.2f} s, "
            f"{timings.decode_tokens_per_s:.0f} per second"
        )
    return line


def as_json(record: Record) -> str:
    """For programs: one object per line."""
    about: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.began).astimezone().isoformat(timespec="milliseconds"),
        "id": record.id,
        "method": record.method,
        "route": record.address,
        "status": record.status,
        "model": record.model,
        "seconds": round(record.seconds, 4),
        "finish_reason": record.finish_reason,
    }
    if timings := record.timings:
        about |= {
            "prompt_tokens": timings.prompt_tokens,
            "cached_tokens": timings.cached_tokens,
            "answer_tokens": timings.answer_tokens,
            "queued_s": round(timings.queued_s, 4),
            "first_token_s": round(timings.time_to_first_token_s, 4),
            "tokens_per_s": round(timings.decode_tokens_per_s, 2),
        }
    return json.dumps(about, ensure_ascii=False)
