"""Stream and AsyncStream: an answer as it comes, for a thread to read, or for a task."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, TypeVar

from edgert.answering.answer import Answer, Delivery
from edgert.answering.reply import Chunk, Reply, join
from edgert.engine.sequence import Sequence
from edgert.engine.worker import Worker

Item = TypeVar("Item")

POLL_S = 0.1  # Windows: Ctrl-C doesn't interrupt a wait without an end


class Reading:
    """What both kinds of stream share: the chunks so far, and how to stop."""

    def __init__(self, worker: Worker, sequence: Sequence, answer: Answer) -> None:
        self._worker = worker
        self._sequence = sequence
        self._answer = answer
        self._chunks: list[Chunk] = []
        self._error: BaseException | None = None

    @property
    def finished(self) -> bool:
        """Whether the last chunk, or an error, was read."""
        return self._error is not None or bool(self._chunks and self._chunks[-1].finish_reason)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called, or the reader left."""
        return self._sequence.cancelled

    def stop(self) -> None:
        """End the answer, from any thread: before its next token, and in a prefill at once.

        What was made so far can still be read; the last chunk's `finish_reason` is then "cancelled".
        """
        self._worker.cancel(self._sequence)

    def __del__(self) -> None:
        if not self.finished:
            self.stop()

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering"
        return f"<{type(self).__name__}: {len(self._chunks)} chunks read, {state}>"

    def _keep(self, item: Chunk | BaseException) -> Chunk:
        """Note what was read; raises an error."""
        if self._answer.was_read():
            self._worker.wake()
        if isinstance(item, BaseException):
            self._error = item
            raise item
        self._chunks.append(item)
        return item

    def _reply(self) -> Reply:
        if self._error is not None:
            raise self._error
        return join(self._chunks)


class Stream(Reading, Iterator[Chunk]):
    """The chunks of one answer. It is made by a thread of the model's while you read.

    For one reader; `stop` is for any thread. Leave it, close it or drop it, and the work stops.
    """

    def __init__(
        self,
        worker: Worker,
        sequence: Sequence,
        answer: Answer,
        chunks: queue.SimpleQueue[Chunk | BaseException],
    ) -> None:
        super().__init__(worker, sequence, answer)
        self._queue = chunks

    def __next__(self) -> Chunk:
        """The next chunk, as soon as it is there. Raises what ended the answer, such as DeviceError."""
        if self.finished:
            raise StopIteration
        return self._keep(wait_for(self._queue))

    @property
    def reply(self) -> Reply:
        """The whole answer: waits for what is still to come. After `stop`, what there is of it."""
        for _ in self:
            pass
        return self._reply()

    def close(self) -> None:
        """Stop, and wait until the work has ended: at most one more token."""
        self.stop()
        with contextlib.suppress(Exception):  # whoever closes a stream wants none of its errors
            for _ in self:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(Reading, AsyncIterator[Chunk]):
    """The chunks of one answer, for a task of asyncio; the loop is never blocked.

    Leaving the iteration, or cancelling the task that reads, stops the work.
    """

    def __init__(
        self, worker: Worker, sequence: Sequence, answer: Answer, chunks: asyncio.Queue[Chunk | BaseException]
    ) -> None:
        super().__init__(worker, sequence, answer)
        self._queue = chunks

    async def __anext__(self) -> Chunk:
        """The next chunk. Raises what ended the answer."""
        if self.finished:
            raise StopAsyncIteration
        try:
            return self._keep(await self._queue.get())
        except asyncio.CancelledError:
            self.stop()
            raise

    async def reply(self) -> Reply:
        """The whole answer, with what is still to come. After `stop`, what there is of it."""
        async for _ in self:
            pass
        return self._reply()

    async def aclose(self) -> None:
        """Stop, and wait until the work has ended."""
        self.stop()
        with contextlib.suppress(Exception):
            async for _ in self:
                pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def delivery_to(loop: asyncio.AbstractEventLoop, chunks: asyncio.Queue[Chunk | BaseException]) -> Delivery:
    """Puts chunks into a task's queue, from another thread; into none once the loop is closed."""

    def deliver(item: Chunk | BaseException) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(chunks.put_nowait, item)

    return deliver


def wait_for(items: queue.SimpleQueue[Item]) -> Item:
    """The next item of a queue; Ctrl-C gets through."""
    while sys.platform == "win32":
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=POLL_S)
    return items.get()
