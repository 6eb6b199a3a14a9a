"""Budget: how long a thought may be, in tokens or in seconds, and how it is closed then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral

from edgert.answering.reply import Timings
from edgert.errors import UsageError

# As the Qwen3 report publishes it (arXiv:2505.09388, "Thinking Budget"). Closing a thought for the model goes
# back to s1 (arXiv:2501.19393); a sentence that says so keeps it from thinking on in its answer.
CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>\n\n"
)


@dataclass(frozen=True)
class Budget:
    """The most tokens of a thought, or the most seconds after its first token. One of them is None."""

    tokens: int | None = None
    seconds: float | None = None

    def spent(self, timings: Timings) -> bool:
        """Whether a thought has gone on for so long."""
        if self.tokens is not None:
            return timings.thinking_tokens >= self.tokens
        return self.seconds is not None and timings.thinking_s >= self.seconds

    def __str__(self) -> str:
        return f"{self.seconds:g}s" if self.tokens is None else str(self.tokens)


def parse_budget(value: object) -> Budget:
    """512 (tokens), "512" or "20s". Raises UsageError."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = str(int(value))
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?s", value) if isinstance(value, str) else None
    if found and found[1] and int(found[1]):
        return Budget(tokens=int(found[1]))
    if found and found[2] and float(found[2]):
        return Budget(seconds=float(found[2]))
    raise UsageError(
        f"thinking_budget must be tokens, such as 512, or seconds, such as '20s', not {value!r}; "
        "thinking=False leaves the thought out"
    )
