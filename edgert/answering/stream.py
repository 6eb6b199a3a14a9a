"""Stream and AsyncStream: an answer as it comes, for a thread to read, or for a task."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from edgert.answering.answer import Answer
from edgert.answering.reply import Chunk, Reply, join
from edgert.engine.sequence import Sequence
from edgert.engine.worker import Worker

Item = TypeVar("Item")
Turn: TypeAlias = dict[str, Any]
Results: TypeAlias = Callable[[Reply], list[Turn]]  # what the calls of an answer return, as messages

POLL_S = 0.1  # Windows: Ctrl-C doesn't interrupt a wait without an end


class Reading:
    """What both kinds of stream share: the chunks so far, and how to stop."""

    def __init__(self, worker: Worker, sequence: Sequence, answer: Answer) -> None:
        self._worker = worker
        self._sequence = sequence
        self._answer = answer
        self._read = 0
        self._results: Results | None = None
        self._earlier: list[Self] = []

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

    def _follow(self, later: Self) -> None:
        """Go on with the chunks of another answer."""
        self._earlier.append(later)  # if it were dropped, its work would stop
        self._worker, self._sequence, self._answer = later._worker, later._sequence, later._answer
        self._read = 0

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
        self._answer_to: Callable[[list[Turn]], Stream] | None = None

    def then(self, results: Results, answer_to: Callable[[list[Turn]], Stream]) -> Self:
        """Go on with the answer to what the calls of this one return, if they return something."""
        self._results, self._answer_to = results, answer_to
        return self

    def __next__(self) -> Chunk:
        """The next chunk, as soon as it is there. Raises what ended the answer, such as DeviceError."""
        if self.finished and not self._goes_on():
            raise StopIteration
        try:
            while not self._unread:
                wait_for(self._woken)
        except BaseException:
            self.stop()
            raise
        return self._next()

    def _goes_on(self) -> bool:
        results, self._results = self._results, None  # once, also after an error
        returned = results(self._reply()) if results and self._answer_to and not self.stopped else []
        if not (returned and self._answer_to):
            return False
        later = self._answer_to(returned)
        self._follow(later)
        self._woken, self._results = later._woken, results
        return True

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

    def __init__(self, worker: Worker, sequence: Sequence, answer: Answer, woken: Woken) -> None:
        super().__init__(worker, sequence, answer)
        self._woken = woken
        self._answer_to: Callable[[list[Turn]], AsyncStream] | None = None

    def then(self, results: Results, answer_to: Callable[[list[Turn]], AsyncStream]) -> Self:
        """As `Stream.then`; what the calls return is found by another thread."""
        self._results, self._answer_to = results, answer_to
        return self

    async def __anext__(self) -> Chunk:
        """The next chunk. Raises what ended the answer."""
        if self.finished and not await self._goes_on():
            raise StopAsyncIteration
        try:
            await self._woken.wait(lambda: self._unread)
        except BaseException:
            self.stop()
            raise
        return self._next()

    async def _goes_on(self) -> bool:
        results, self._results = self._results, None
        if not (results and self._answer_to) or self.stopped:
            return False
        reply = self._reply()
        returned = await asyncio.to_thread(results, reply) if reply.tool_calls else []
        if not returned:
            return False
        later = self._answer_to(returned)
        self._follow(later)
        self._woken, self._results = later._woken, results
        return True

    async def reply(self) -> Reply:
        """The whole answer: waits for what is still to come, unless `stop` or `aclose` was called before."""
        async for _ in self:
            pass
        return self._reply()

    async def aclose(self) -> None:
        """Stop, and wait until the work has ended."""
        self.stop()
        await self._woken.wait(self._answer.over.is_set)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Woken:
    """A task that waits, and that other threads wake. Its loop is known once it waits: any thread may open a
    stream for it.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """For any thread. Raises RuntimeError once the loop is closed."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, reached: Callable[[], bool]) -> None:
        """Until it is so, which is looked at whenever somebody wakes."""
        self._loop = asyncio.get_running_loop()  # before it looks: who wakes after that is heard
        while not reached():
            self._event.clear()
            if reached():
                return
            await self._event.wait()


def wait_for(items: queue.SimpleQueue[Item]) -> Item:
    """The next item of a queue; Ctrl-C gets through."""
    while sys.platform == "win32":
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=POLL_S)
    return items.get()
