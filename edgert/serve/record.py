"""Record: what is known of a request once it is over, for logs and figures. It has nothing that was said."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from edgert.answering.reply import Timings

GONE = 499  # the status of a client that went away, as nginx calls it


@dataclass
class Record:
    """`began`: seconds since 1970; `seconds`: until its end. `model` and `timings` are of what answered."""

    route: str
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(8)}")
    began: float = field(default_factory=time.time)
    status: int = GONE
    model: str | None = None
    timings: Timings | None = None
    finish_reason: str | None = None
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def end(self, status: int | None) -> None:
        """It is over; None is a client that left before anything was sent."""
        self.status = GONE if status is None else status
        self.seconds = time.perf_counter() - self._started


Note: TypeAlias = Callable[[Record], None]  # gets every record at its end
