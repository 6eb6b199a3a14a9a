"""Desk: where every API asks. It gives a question its place in the queue, its model, and its stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from edgert.answering.stream import AsyncStream
from edgert.errors import EdgertError
from edgert.model import Model, Prompt
from edgert.serve.models import Models, Served


class Busy(EdgertError):
    """The queue of a model is full. `retry_after_s`: when to ask again."""

    def __init__(self, name: str, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{name} is busy: {waiting} questions wait already; ask again later")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Question:
    """What a request asks, whatever its API. `prompt` is made with the model, whose tokenizer it may need."""

    model: str | None
    prompt: Callable[[Model], Prompt]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answering:
    """An answer that is being made, by which of the models."""

    served: Served
    model: Model
    stream: AsyncStream


class Desk:
    """`queue`: how many questions may be with one model at a time, answered or waiting; more are refused."""

    def __init__(self, models: Models, queue: int) -> None:
        self.models = models
        self.queue = queue
        self.asked: Counter[str] = Counter()  # questions that are here now, by model

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Answering]:
        """The answer as it is made; leaving the block stops it. Raises Busy, NoSuchModel, UsageError,
        PromptTooLong, and what `edgert.load` raises.
        """
        served = self.models.named(question.model)
        with self._place(served):
            async with self.models.use(served) as model:
                request = model.request(**{**served.options, **question.options})
                async with model.open_astream(question.prompt(model), request) as stream:
                    yield Answering(served, model, stream)

    @contextmanager
    def _place(self, served: Served) -> Iterator[None]:
        if self.asked[served.name] >= self.queue:
            raise Busy(served.name, self.asked[served.name], 1)
        self.asked[served.name] += 1
        try:
            yield
        finally:
            self.asked[served.name] -= 1
