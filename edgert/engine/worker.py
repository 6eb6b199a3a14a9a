"""Worker: the one thread that steps an engine, there as long as there is work."""

from __future__ import annotations

import atexit
import threading
import weakref

from edgert.engine.engine import Engine
from edgert.engine.sequence import Sequence


class Worker:
    """Started by the first sequence, gone after the last. Its methods are for any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sequences: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._closed = False
        _LIVING.add(self)

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, sequence: Sequence) -> None:
        """Begin with a sequence, or queue it. Raises ValueError after `close`."""
        with self._changed:
            if self._closed:
                raise ValueError("the worker is closed")
            self._engine.add(sequence)
            self._sequences.add(sequence)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="edgert", daemon=True)
                self._thread.start()
            self._changed.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Stop a sequence; it ends before the next step."""
        sequence.cancel()
        self.wake()

    def wake(self) -> None:
        """A reader has caught up, or leaves: look again."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Cancel everything and wait until the thread is gone. Nothing can be submitted after that."""
        with self._changed:
            self._closed = True
            for sequence in self._sequences:
                sequence.cancel()
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._engine.idle and not self._engine.can_step:
                    self._changed.wait()
                if self._engine.idle:
                    self._thread = None
                    return
            try:
                self._engine.step()
            except BaseException as error:
                self._engine.fail(error)  # nobody may wait for ever
                raise


_LIVING: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A run that is cut off by the end of the interpreter could crash in onnxruntime."""
    for worker in list(_LIVING):
        worker.close()
