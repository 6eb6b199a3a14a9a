"""Models: bundles by name, loaded when first asked for, and put away when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from edgert.batch.setup import Setup
from edgert.bundle import Bundle
from edgert.errors import DoesNotFit, EdgertError, UsageError
from edgert.model import Model
from edgert.suggestion import did_you_mean


class NotThere(EdgertError):
    """What a request names, and nobody knows here."""


class NoSuchModel(NotThere):
    """A name that no bundle is served under."""


@dataclass(frozen=True)
class Served:
    """A bundle, and how it answers: how it is loaded, and options for requests that don't give them."""

    name: str
    bundle: Bundle
    setup: Setup
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Loaded:
    """A model in memory. `users`: how many answers it is making; `left`: when the last of them ended, or it
    was loaded.

    `keep_alive_s`: how long it stays after that.
    """

    model: Model
    keep_alive_s: float
    users: int = 0
    left: float = 0.0


class Models:
    """For one event loop, which loading and closing never block: threads do that.

    One model is loaded at a time, since each has to know what memory the others left. Those that are loaded
    answer meanwhile.
    """

    def __init__(
        self, served: Iterable[Served], keep_alive_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`keep_alive_s`: how long a model stays that nobody asks. Raises UsageError for equal names."""
        self.served: dict[str, Served] = {}
        for one in served:
            if one.name in self.served:
                raise UsageError(f"two bundles are called {one.name}: rename the folder of one")
            self.served[one.name] = one
        self.loaded: dict[str, Loaded] = {}
        self.closing: list[Callable[[Model], None]] = []  # told of each that is put away
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._locks = {name: asyncio.Lock() for name in self.served}  # held while it is loaded or closed
        self._loading = asyncio.Lock()
        self._opening: dict[str, asyncio.Task[Loaded]] = {}

    def named(self, name: str | None) -> Served:
        """The one of that name, or the first for None. Raises NoSuchModel."""
        if name is None:
            return next(iter(self.served.values()))
        if name not in self.served:
            there = ", ".join(self.served)
            raise NoSuchModel(f"no model '{name}'{did_you_mean(name, list(self.served))} (served: {there})")
        return self.served[name]

    @asynccontextmanager
    async def use(self, served: Served) -> AsyncIterator[Model]:
        """The model, loaded if it isn't; it stays loaded meanwhile. Raises what `edgert.load` raises."""
        async with self._locks[served.name]:
            loaded = self.loaded.get(served.name) or await self._opened(served)
            loaded.users += 1
            loaded.keep_alive_s = self._keep_alive_s  # what an earlier request asked for was for that one
        try:
            yield loaded.model
        finally:
            loaded.users -= 1
            loaded.left = self._clock()

    def keep(self, name: str, keep_alive_s: float | None) -> None:
        """Keep a loaded model so long, until it is asked again; None changes nothing."""
        if keep_alive_s is not None and name in self.loaded:
            self.loaded[name].keep_alive_s = keep_alive_s

    def stays_s(self, name: str) -> float:
        """How long a loaded model stays if nobody asks it from now on."""
        loaded = self.loaded[name]
        since = 0.0 if loaded.users else self._clock() - loaded.left
        return max(0.0, loaded.keep_alive_s - since)

    async def put_away_idle(self) -> None:
        """Close what nobody has asked for as long as it stays."""
        for name in self._idle():
            if name in self.loaded and not self.stays_s(name):  # another may have closed it meanwhile
                await self._close(name)

    async def put_away(self, name: str) -> None:
        """Close a model now, unless it is answering, or not loaded."""
        await self._close(name)

    async def close(self) -> None:
        """Close all of them; answers that are being made end as cancelled."""
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        for name in list(self.loaded):
            await self._close(name, used=True)

    async def _opened(self, served: Served) -> Loaded:
        """Once it is loaded, which goes on if who asked leaves: a thread can't be stopped, others may ask."""
        opening = self._opening.get(served.name)
        if opening is None:
            opening = self._opening[served.name] = asyncio.create_task(self._load(served))
            opening.add_done_callback(lambda _: self._opening.pop(served.name))
        return await asyncio.shield(opening)

    async def _load(self, served: Served) -> Loaded:
        """What is idle for longest makes room where memory doesn't suffice."""
        async with self._loading:
            while True:
                try:
                    model = await asyncio.to_thread(served.setup.open)
                except DoesNotFit:
                    idle = self._idle()
                    if not idle:
                        raise
                    await self._close(idle[0])
                else:
                    self.loaded[served.name] = Loaded(model, self._keep_alive_s, left=self._clock())
                    return self.loaded[served.name]

    def _idle(self) -> list[str]:
        """Names of what nobody uses; those that are idle for longest first."""
        idle = [(one.left, name) for name, one in self.loaded.items() if not one.users]
        return [name for _, name in sorted(idle)]

    async def _close(self, name: str, *, used: bool = False) -> None:
        """Unless somebody has begun to use it meanwhile, or it is to be closed all the same."""
        async with self._locks[name]:
            loaded = self.loaded.get(name)
            if loaded and (used or not loaded.users):
                del self.loaded[name]
                for told in self.closing:
                    told(loaded.model)
                await asyncio.to_thread(loaded.model.close)


async def keep_tidy(models: Models, every_s: float = 1.0) -> None:
    """Put away what is idle, until the task is cancelled."""
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(every_s)
            await models.put_away_idle()
