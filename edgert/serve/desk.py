"""Desk: where every API asks. It gives a question its place in the queue, its model, and its stream."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from edgert.answering.reply import Chunk, Reply, join
from edgert.answering.request import Request
from edgert.answering.stream import AsyncStream
from edgert.errors import EdgertError
from edgert.model import Model, Prompt
from edgert.serve.models import Models, Served
from edgert.serve.record import Record

RECENT = 16  # answers from whose time the wait of a refused client is estimated


class Busy(EdgertError):
    """The queue of a model is full. `retry_after_s`: when to ask again."""

    def __init__(self, name: str, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{name} is busy: {waiting} questions wait already; ask again later")
        self.retry_after_s = retry_after_s


class ShuttingDown(EdgertError):
    """The server ends, and with it an answer."""


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
    record: Record

    async def chunks(self) -> AsyncIterator[Chunk]:
        """As they come. Raises ShuttingDown, and what ends an answer, such as DeviceError."""
        async for chunk in self.stream:
            self.record.timings, self.record.finish_reason = chunk.timings, chunk.finish_reason
            if chunk.finish_reason == "cancelled":
                raise ShuttingDown("the server is shutting down: the answer was cut")
            yield chunk

    async def reply(self) -> Reply:
        """All of it. Raises what `chunks` raises."""
        return join([chunk async for chunk in self.chunks()])


class Desk:
    """`queue`: how many questions may be with one model at a time, answered or waiting; more are refused."""

    def __init__(self, models: Models, queue: int) -> None:
        self.models = models
        self.queue = queue
        self.asked: Counter[str] = Counter()  # questions that are here now, by model
        self._took: dict[str, deque[float]] = {name: deque(maxlen=RECENT) for name in models.served}

    @asynccontextmanager
    async def ask(self, question: Question, record: Record) -> AsyncIterator[Answering]:
        """The answer as it is made; leaving the block stops it. Raises Busy, NoSuchModel, UsageError,
        PromptTooLong, and what `edgert.load` raises.
        """
        served = self.models.named(question.model)
        async with self.use(served, record) as model:
            request = model.request(**{**served.options, **question.options})
            opened = await asyncio.to_thread(_open, model, question, request)  # a long text takes seconds
            async with opened as stream:
                yield Answering(served, model, stream, record)

    @asynccontextmanager
    async def use(self, served: Served, record: Record) -> AsyncIterator[Model]:
        """The model, for one answer that has a place in the queue. Raises Busy, what `edgert.load` raises."""
        record.model = served.name
        with self._place(served):
            async with self.models.use(served) as model:
                yield model

    @contextmanager
    def _place(self, served: Served) -> Iterator[None]:
        asked = self.asked[served.name]
        if asked >= self.queue:
            raise Busy(served.name, asked, self._wait(served.name))
        self.asked[served.name] += 1
        began = time.perf_counter()
        try:
            yield
            self._took[served.name].append(time.perf_counter() - began)  # what was refused took no time
        finally:
            self.asked[served.name] -= 1

    def _wait(self, name: str) -> int:
        """Seconds until a place is likely to be free: one is after each answer, of which several are made."""
        took, loaded = self._took[name], self.models.loaded.get(name)
        at_once = loaded.model.conversations if loaded else 1
        return max(1, math.ceil(sum(took) / len(took) / at_once)) if took else 1


def _open(model: Model, question: Question, request: Request) -> AsyncStream:
    return model.open_astream(question.prompt(model), request)
