"""Stream and AsyncStream: an answer as it comes, for a thread to read, or for a task."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from edgert.answering.answer import Answer
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
        self._read = 0

    @property
    def finished(self) -> bool:
        """Whether the last chunk, or the error that ended the answer, was read."""
        last = self._answer.items[self._read - 1] if self._read else None
        return isinstance(last, BaseException) or (last is not None and last.finish_reason is not None)

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
        if not self._answer.over.is_set():
            self.stop()

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering"
        return f"<{type(self).__name__}: {self._read} chunks read, {state}>"

    @property
    def _unread(self) -> bool:
        return self._read < len(self._answer.items)

    def _next(self) -> Chunk:
        """The next of the chunks that are there; raises an error."""
        item = self._answer.items[self._read]
        self._read += 1
        if self._answer.was_read(self._read):
            self._worker.wake()
        if isinstance(item, BaseException):
            raise item
        return item

    def _reply(self) -> Reply:
        *chunks, last = self._answer.items
        if isinstance(last, BaseException):
            raise last
        return join([*(chunk for chunk in chunks if isinstance(chunk, Chunk)), last])


class Stream(Reading, Iterator[Chunk]):
    """The chunks of one answer. It is made by a thread of the model's while you read.

    For one reader; `stop` is for any thread. The work stops when the stream is closed (at the end of a `with`
    block), when nothing refers to it any more, and when waiting for it is interrupted (Ctrl-C). It pauses
    while some chunks lie unread.
    """

    def __init__(
        self, worker: Worker, sequence: Sequence, answer: Answer, woken: queue.SimpleQueue[None]
    ) -> None:
        super().__init__(worker, sequence, answer)
        self._woken = woken

    def __next__(self) -> Chunk:
        """The next chunk, as soon as it is there. Raises what ended the answer, such as DeviceError."""
        if self.finished:
            raise StopIteration
        try:
            while not self._unread:
                wait_for(self._woken)
        except BaseException:
            self.stop()
            raise
        return self._next()

    @property
    def reply(self) -> Reply:
        """The whole answer: waits for what is still to come. After `stop`, what there is of it."""
        for _ in self:
            pass
        return self._reply()

    def close(self) -> None:
        """Stop, and wait until the work has ended: at most one more token."""
        self.stop()
        while not self._answer.over.wait(POLL_S):  # a wait without an end can't be interrupted on Windows
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(Reading, AsyncIterator[Chunk]):
    """The chunks of one answer, for a task of asyncio; the loop is never blocked.

    The work stops when the stream is closed (at the end of an `async with` block), when nothing refers to it
    any more, and when the task that reads it is cancelled. It pauses while some chunks lie unread.
    """

    def __init__(self, worker: Worker, sequence: Sequence, answer: Answer, woken: asyncio.Event) -> None:
        super().__init__(worker, sequence, answer)
        self._woken = woken

    async def __anext__(self) -> Chunk:
        """The next chunk. Raises what ended the answer."""
        if self.finished:
            raise StopAsyncIteration
        try:
            await self._wait(lambda: self._unread)
        except BaseException:
            self.stop()
            raise
        return self._next()

    async def reply(self) -> Reply:
        """The whole answer: waits for what is still to come, unless `stop` or `aclose` was called before."""
        async for _ in self:
            pass
        return self._reply()

    async def aclose(self) -> None:
        """Stop, and wait until the work has ended."""
        self.stop()
        await self._wait(self._answer.over.is_set)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _wait(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._woken.clear()
            if reached():
                return
            await self._woken.wait()


def waker(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    """Sets a task's event from another thread. Raises RuntimeError once the loop is closed."""

    def wake() -> None:
        loop.call_soon_threadsafe(event.set)

    return wake


def wait_for(items: queue.SimpleQueue[Item]) -> Item:
    """The next item of a queue; Ctrl-C gets through."""
    while sys.platform == "win32":
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=POLL_S)
    return items.get()
