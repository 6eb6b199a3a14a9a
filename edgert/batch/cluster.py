"""Cluster: the nodes of a Ray cluster answer lines, each with a model of its own.

A node needs this edgert, and the bundle in the same folder as here: copied, or shared. It is not sent,
because Ray's object store would hold all of its bytes in memory once more.
"""

from __future__ import annotations

import logging
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edgert.batch import local
from edgert.batch.line import Line
from edgert.batch.result import Result
from edgert.batch.setup import Setup, identity
from edgert.bundle import open_bundle
from edgert.errors import BundleError, EdgertError, EdgertWarning, MissingExtra, UsageError
from edgert.home import find_bundle
from edgert.model import Model

TRIES = 3  # workers that may be lost over one line, and on one node
LOOK_S = 1.0  # between two looks at which nodes there are
REACH_S = 10.0  # until a cluster has to have answered
PATIENCE_S = 20.0  # until somebody is told that no worker has begun yet

Ref: TypeAlias = Any  # Ray brings few types


class Worker:
    """What runs on a node: an actor of Ray. Its process holds one model, which answers many lines at once."""

    def __init__(self) -> None:
        self._model: Model | None = None

    async def open(self, setup: Setup, bundle: str) -> int:
        """Load the bundle; how many lines it answers at a time.

        Raises BundleError for one of another content, and what `edgert.load` raises.
        """
        if identity(open_bundle(find_bundle(setup.folder))) != bundle:
            raise BundleError(f"{setup.folder} is another bundle there: copy this one")
        self._model = setup.open()
        return self._model.conversations

    async def answer(self, line: Line) -> Result:
        """One line's result. Raises what fails in the engine."""
        if self._model is None:
            raise UsageError("open the bundle first")
        return await local.answer(self._model, line)


@dataclass(frozen=True)
class Cluster:
    """Answers on all nodes of the cluster at `address`, as `ray.init` takes it: HOST:PORT, or "auto"."""

    address: str
    setup: Setup

    def answer(self, lines: Sequence[Line], take: Callable[[Result], None]) -> None:
        """Give each line's result to `take` as soon as it is there; lines of lost workers go to others.

        Raises MissingExtra, UsageError if there is no such cluster, EdgertError if no node can answer.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("a Ray cluster", "ray") from error
        _check_reachable(self.address)
        try:
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())
            raise UsageError(f"no Ray cluster answers at {self.address}: {told}") from error
        try:
            bundle = identity(open_bundle(find_bundle(self.setup.folder)))
            Crew(self.setup, bundle, deque(lines), take).work()
        finally:
            ray.shutdown()


@dataclass
class Place:
    """A node of the cluster and its worker. `rows`: lines that it takes at a time, 0 until it has opened."""

    address: str
    worker: Any
    rows: int = 0
    lines: dict[Ref, Line] = field(default_factory=dict)


@dataclass
class Crew:
    """The workers of one run, by node, and the lines that are left."""

    setup: Setup
    bundle: str
    left: deque[Line]
    take: Callable[[Result], None]
    places: dict[str, Place] = field(default_factory=dict)
    opening: dict[Ref, str] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)  # workers, by node
    tries: Counter[int] = field(default_factory=Counter)  # by line
    refusals: dict[str, str] = field(default_factory=dict)  # why a node answers nothing
    begun: float = field(default_factory=time.monotonic)
    told: bool = False

    def work(self) -> None:
        """Until every line has its result. Raises EdgertError if no node can answer."""
        import ray

        looked = 0.0
        while self.left or any(place.lines for place in self.places.values()):
            if time.monotonic() - looked >= LOOK_S:
                self._hire()
                looked = time.monotonic()
            self._hand_out()
            refs = [*self.opening, *(ref for place in self.places.values() for ref in place.lines)]
            ready, _ = ray.wait(refs, timeout=LOOK_S)
            for ref in ready:
                self._collect(ref)
            self._tell_who_waits()

    def _hire(self) -> None:
        """A worker for each node that has none: new ones, and those whose worker was lost."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node, address, processors in _nodes():
            if node in self.places or node in self.refusals:
                continue
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            kind = ray.remote(num_cpus=processors, scheduling_strategy=there)(Worker)
            self.places[node] = place = Place(address, kind.remote())
            self.opening[place.worker.open.remote(self.setup, self.bundle)] = node
        if not self.places:
            reasons = "; ".join(self.refusals.values()) or "none has processors"
            raise EdgertError(f"no node of the cluster can answer: {reasons}")

    def _hand_out(self) -> None:
        for place in self.places.values():
            while self.left and place.rows and len(place.lines) < place.rows + local.AHEAD:
                line = self.left.popleft()
                place.lines[place.worker.answer.remote(line)] = line

    def _collect(self, ref: Ref) -> None:
        """What came of a call: a worker that has opened, a result, or the loss of a worker."""
        import ray

        node = self.opening.pop(ref, None) or next(
            (n for n, p in self.places.items() if ref in p.lines), None
        )
        if node is None:
            return  # its worker was dismissed in this round
        place = self.places[node]
        try:
            found = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._lose(node, error)
            return
        if ref in place.lines:
            del place.lines[ref]
            self.take(found)
        else:
            place.rows = found

    def _lose(self, node: str, error: Exception) -> None:
        """Dismiss a worker that is gone or broken. Its lines come first again, unless they were too often."""
        import ray

        place = self.places.pop(node)
        ray.kill(place.worker)
        self.lost[node] += 1
        cause = getattr(error, "cause", None)
        hopeless = isinstance(cause, EdgertError) and not place.rows
        reason = f"node {place.address}: {_line(cause or error)}"
        if hopeless or self.lost[node] == TRIES:
            self.refusals[node] = reason
        again = "" if node in self.refusals else "; its lines are given out again"
        warnings.warn(f"{reason}{again}", EdgertWarning, stacklevel=2)
        for line in reversed(place.lines.values()):
            self.tries[line.number] += 1
            if self.tries[line.number] < TRIES:
                self.left.appendleft(line)
            else:
                self.take(Result.failure(line, f"{TRIES} workers were lost over it, the last on {reason}"))

    def _tell_who_waits(self) -> None:
        """Once, if nobody has begun for long: others may have the processors, or loading takes its time."""
        if self.told or any(place.rows for place in self.places.values()):
            self.told = True
        elif time.monotonic() - self.begun > PATIENCE_S:
            self.told = True
            nodes = ", ".join(place.address for place in self.places.values())
            warnings.warn(f"still waiting for free processors on {nodes}", EdgertWarning, stacklevel=2)


def _check_reachable(address: str) -> None:
    """Ray itself tries for ten minutes. Raises UsageError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {error}") from error


def _nodes() -> Iterator[tuple[str, str, float]]:
    """Id, address and number of processors of each node that is there and has any."""
    import ray

    for node in ray.nodes():
        if node["Alive"] and (processors := node["Resources"].get("CPU", 0)):
            yield node["NodeID"], node["NodeManagerAddress"], processors


def _line(error: BaseException) -> str:
    """An error in a line; Ray's own are many lines, of which the first says what happened."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
