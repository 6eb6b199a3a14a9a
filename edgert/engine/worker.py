"""Worker: the one thread that steps an engine, there as long as there is work."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable

from edgert.engine.engine import Engine
from edgert.engine.sequence import Sequence
from edgert.errors import UsageError

LEAVING = 0.05  # seconds: a thread whose last answer was just given is gone in less


class Worker:
    """Started by the first sequence, gone after the last. Its methods are for any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine: Engine | None = engine  # None once it is closed
        self._lock = threading.Lock()
        # Tokens rather than a condition: a stream that is collected in whatever thread, inside whatever lock,
        # can wake the worker, and no token is lost.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sequences: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._process = os.getpid()
        _LIVING.add(self)

    def submit(self, sequence: Sequence) -> None:
        """Begin with a sequence, or queue it. Raises UsageError after `close`, and in a forked child."""
        if os.getpid() != self._process:
            raise UsageError("a model can't be used in a forked child process: load it there")
        with self._lock:
            engine = self._open_engine()
            if self._thread is None:
                thread = threading.Thread(target=self._work, args=(engine,), name="edgert", daemon=True)
                thread.start()  # waits for the lock before it looks for work
                self._thread = thread
            engine.add(sequence)
            self._sequences.add(sequence)
        self.wake()

    def cancel(self, sequence: Sequence) -> None:
        """Stop a sequence; it ends before the next step."""
        sequence.cancel()
        self.wake()

    def do_while_idle(self, act: Callable[[Engine], None]) -> bool:
        """Do something with the engine while it has no work; False, and it is not done, if it has some.

        Raises UsageError after `close`.
        """
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(LEAVING)
        with self._lock:
            engine = self._open_engine()
            if self._thread is not None:
                return False
            act(engine)
            return True

    def wake(self) -> None:
        """A reader has caught up, or leaves: look again."""
        self._wakes.put(None)

    def close(self) -> None:
        """Cancel everything, wait until the thread is gone, and let go of the engine."""
        with self._lock:
            self.engine = None
            thread = self._thread
            for sequence in list(self._sequences):
                sequence.cancel()
        self.wake()
        if thread is not None and thread is not threading.current_thread() and os.getpid() == self._process:
            thread.join()

    def _open_engine(self) -> Engine:
        if self.engine is None:
            raise UsageError("the model is closed: load it again")
        return self.engine

    def _work(self, engine: Engine) -> None:
        try:
            while not self._over(engine):
                engine.step()
        except BaseException as error:
            with self._lock:
                self._thread = None
                engine.fail(error)  # nobody may wait for ever
            raise

    def _over(self, engine: Engine) -> bool:
        """Wait until a step would do something; whether nobody is left for one."""
        while True:
            with self._lock:
                if engine.idle:
                    self._thread = None
                    return True
            if engine.can_step:
                return False
            self._wakes.get()


_LIVING: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A run that is cut off by the end of the interpreter could crash in onnxruntime."""
    for worker in list(_LIVING):
        worker.close()
