"""Local: one loaded model answers lines, as many at a time as it has conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from edgert.answering.request import Options
from edgert.batch.line import Line
from edgert.batch.result import Result
from edgert.errors import EdgertError, PromptTooLong, UsageError
from edgert.model import Model

AHEAD = 2  # lines whose prompts are ready as soon as a row is free


@dataclass(frozen=True)
class Local:
    """Answers on this machine."""

    model: Model

    def answer(self, lines: Sequence[Line], take: Callable[[Result], None]) -> None:
        """Give each line's result to `take` as soon as it is there; in this thread, which has no event loop.

        Raises what stops all lines, such as DeviceError; what is wrong with one is its result.
        """
        asyncio.run(self._answer(iter(lines), min(len(lines), self.model.conversations + AHEAD), take))

    async def _answer(self, left: Iterator[Line], at_once: int, take: Callable[[Result], None]) -> None:
        async def row() -> None:
            for line in left:
                take(await answer(self.model, line))

        await asyncio.gather(
            *(row() for _ in range(at_once))
        )  # one that fails ends the run, and so the others


async def answer(model: Model, line: Line) -> Result:
    """One line's result. Raises EdgertError if the model was closed meanwhile, and what the engine raises."""
    try:
        reply = await model.agenerate(line.prompt, **cast("Options", line.options))
    except PromptTooLong as error:
        return Result.failure(line, f"{error.facts}: shorten it, or give a larger context")
    except UsageError as error:
        return Result.failure(line, str(error))
    if reply.finish_reason == "cancelled":
        raise EdgertError("the model was closed while it answered")
    return Result.of(line, reply)
