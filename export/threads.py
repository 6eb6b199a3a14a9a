"""Threads: how an export shares the cores. NumPy and file reads release the interpreter lock.

OpenBLAS, with which NumPy multiplies, waits for its own threads by spinning. Beside other work, or in several
threads at once, that costs more than they give: a Cholesky factor of 576 columns took 9 ms with one thread,
350 with two that had one core. So each product takes one thread, and several are computed at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(os.cpu_count() or 1, 4)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = WORKERS, ahead: int = 0
) -> Iterator[Result]:
    """map() over a few threads with only a few results `ahead`, so that memory stays bounded.

    `items` are made by the thread that asks for results, beside the workers: where that takes long, more
    ahead keep the workers busy.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > max(workers, ahead):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # after an error nobody wants them
                future.cancel()


def product_threads(count: int) -> threadpool_limits:
    """A context in which each of NumPy's products takes so many threads, in the whole process."""
    return threadpool_limits(count, user_api="blas")


def every_core() -> int:
    """For a product that is large and alone."""
    return os.cpu_count() or 1
