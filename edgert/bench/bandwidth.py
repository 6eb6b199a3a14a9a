"""Bandwidth: how fast this machine reads memory, which bounds how fast it can decode."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from edgert import devices

BUFFER = 1 << 30  # bytes: several times the largest caches, or most of it would be read from there
PASSES = 3  # the quickest counts: whatever disturbs only makes them slower


class Bandwidth:
    """Reads one large buffer with several threads, each its own part.

    `threads`: as many as the engine computes with; 0 takes every processor. Where memory is short the buffer
    is an eighth of what is free.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads or devices.processors()
        self.size = min(BUFFER, max(1 << 20, devices.memory_available() // 8))
        # Written, since pages that never were are all the same page of zeros.
        self._parts = np.array_split(np.ones(self.size, np.uint8), self._threads)

    def measure(self) -> float:
        """GB/s that it reads now."""
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(largest, [part[:1] for part in self._parts]))  # starts the threads
            seconds = []
            for _ in range(PASSES):
                start = time.perf_counter()
                list(pool.map(largest, self._parts))
                seconds.append(time.perf_counter() - start)
        return self.size / min(seconds) / 1e9


def largest(part: npt.NDArray[np.uint8]) -> int:
    """The cheapest thing to compute that looks at every byte: NumPy does 16 to 64 at a time, and without the
    interpreter's lock.
    """
    return int(part.max())
