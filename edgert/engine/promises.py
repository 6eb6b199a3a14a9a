"""Promises: memory that the open models of this process may still take, and the next one leaves to them.

Keys and values are reserved when a model opens, and taken page by page as they are written.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from edgert import devices

_untaken: weakref.WeakKeyDictionary[object, Callable[[], int]] = weakref.WeakKeyDictionary()


def promise(owner: object, untaken: Callable[[], int]) -> None:
    """As long as `owner` lives, it may take so many bytes more; `untaken` must not keep it alive."""
    _untaken[owner] = untaken


def promised() -> int:
    """Bytes that all owners together may still take. For any thread."""
    return sum(untaken() for untaken in list(_untaken.values()))


def free() -> int:
    """Bytes that this machine has for another model."""
    return max(0, devices.memory_available() - promised())
