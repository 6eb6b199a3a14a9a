"""Record: what is known of a request once it is over, for logs and figures. It has nothing that was said."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from edgert.answering.reply import Timings

RECORD = "edgert.record"  # where the scope of a request has it
GONE = 499  # the status of a client that went away, as nginx calls it


@dataclass
class Record:
    """`began`: seconds since 1970; `seconds`: until its end. `model` and `timings` are of what answered.

    `known`: whether something answers at its address, as far as it came.
    """

    method: str
    address: str = ""
    known: bool = False
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(8)}")
    began: float = field(default_factory=time.time)
    status: int = GONE  # until a response begins
    model: str | None = None
    timings: Timings | None = None
    finish_reason: str | None = None
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def end(self) -> None:
        """It is over."""
        self.seconds = time.perf_counter() - self._started


Note: TypeAlias = Callable[[Record], None]  # gets every record at its end
