"""Bench: what a bundle reaches on this machine: speeds, memory, energy, and how near memory's own speed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgert import devices
from edgert.bench import energy, footprint, peers
from edgert.bench.bandwidth import Bandwidth
from edgert.bench.figures import (
    Against,
    AtDepth,
    Bench,
    Curve,
    Drawing,
    Figure,
    Memory,
    PeerAtDepth,
    Point,
    figure,
)
from edgert.bench.footprint import Footprint, Opening
from edgert.bench.pace import PROMPT_TOKENS, Course, Lap, Runner, Speeds, course, runner, text_tokens
from edgert.bench.peers import Peer, Rival
from edgert.bench.weights import step_bytes
from edgert.bundle import Bundle, open_bundle
from edgert.engine import memory
from edgert.engine.loading import Loaded, load
from edgert.errors import UsageError
from edgert.home import find_bundle
from edgert.machine.tuning import tuned_profile
from edgert.text.tokenizer import open_tokenizer

DEPTHS = (0, 512, 2048)
ROUNDS = 5
CURVE_POINTS, CURVE_STEPS = 12, 12  # depths of a curve, and steps at each

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What to measure: decoding at which depths, how often, against whom, and whether a curve, too."""

    depths: Sequence[int] = DEPTHS
    runs: int = ROUNDS
    rivals: Sequence[Rival] = ()
    curve: bool = False


@dataclass(frozen=True)
class Round:
    """What was measured in turn: memory's GB/s, edgert, and each peer."""

    bandwidth: float
    own: Lap
    peers: tuple[Speeds, ...]


@dataclass
class Told:
    """Parts of the work that are done, and all, for a progress bar."""

    total: int
    progress: Progress
    done: int = 0

    def step(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


@dataclass(frozen=True)
class Race:
    """Those that take turns."""

    own: Runner
    peers: Sequence[Peer]
    memory: Bandwidth
    told: Told

    def rounds(self, todo: Course, count: int) -> Iterator[Round]:
        """After one of edgert's that does not count; peers warm up by themselves."""
        self.own.lap(replace(todo, depths=todo.depths[:1]))
        for _ in range(count):
            bandwidth = self.memory.measure()
            lap = self.own.lap(todo)
            self.told.step()
            yield Round(bandwidth, lap, tuple(self._speeds(todo)))

    def _speeds(self, todo: Course) -> Iterator[Speeds]:
        for peer in self.peers:
            yield peer.lap(todo)
            self.told.step()


def measure(opening: Opening, wanted: Wanted, progress: Progress) -> Bench:
    """Load the bundle a few times in processes of their own, then measure round by round in this one.

    In a round memory, edgert and every peer take turns, so that a machine that slows down slows all of them.
    Raises BundleError, DeviceError, DoesNotFit, UsageError; EdgertError where a peer fails.
    """
    for rival in wanted.rivals:
        peers.check(rival)
    told = Told(wanted.runs * (2 + len(wanted.rivals)) + CURVE_POINTS * wanted.curve, progress)
    bundle = open_bundle(find_bundle(opening.path))
    tokenizer = open_tokenizer(bundle)
    footprints = list(_footprints(opening, text_tokens(tokenizer, PROMPT_TOKENS), wanted.runs, told))
    loaded = _load(bundle, opening)
    todo, skipped = course(wanted.depths, loaded.decoder.capacity)
    if not todo.depths:
        raise UsageError(f"no depth fits into a context of {loaded.decoder.capacity} tokens")
    found = energy.find()
    own = runner(bundle, loaded.decoder, tokenizer, found.meter)
    others = [peers.open_peer(rival, loaded) for rival in wanted.rivals]
    rounds = list(Race(own, others, Bandwidth(loaded.threads), told).rounds(todo, wanted.runs))
    made = _bench(bundle, loaded, todo, footprints, rounds)
    return replace(
        made,
        skipped=skipped,
        no_energy=found.reason or made.no_energy,
        against=tuple(_against(rival, number, rounds) for number, rival in enumerate(wanted.rivals)),
        curve=_curve(own, told) if wanted.curve else None,
    )


def _load(bundle: Bundle, opening: Opening) -> Loaded:
    profile = devices.load(opening.device) if opening.device else tuned_profile(bundle)
    if opening.threads:
        profile = replace(profile, threads=opening.threads)
    return load(bundle, profile, opening.context, opening.kv, force=opening.force)


def _footprints(opening: Opening, prompt: list[int], runs: int, told: Told) -> Iterator[Footprint]:
    """Before this process has loaded anything: there may be memory for one only."""
    for _ in range(runs):
        yield footprint.measure(opening, prompt)
        told.step()


def _bench(
    bundle: Bundle, loaded: Loaded, todo: Course, footprints: Sequence[Footprint], rounds: Sequence[Round]
) -> Bench:
    """What edgert itself reached."""
    laps = [done.own for done in rounds]
    depths = tuple(_depths(bundle, loaded, todo, rounds))
    unread = any(depth.joules is None for depth in depths)
    return Bench(
        bundle=bundle.manifest.name,
        device=loaded.profile.name,
        graph=loaded.graph,
        threads=loaded.threads,
        context=loaded.decoder.capacity,
        prompt=todo.prompt,
        steps=todo.steps,
        load=figure([found.load for found in footprints]),
        prefill=figure([lap.speeds.prefill for lap in laps]),
        first_token=figure([lap.first for lap in laps]),
        depths=depths,
        bandwidth=figure([done.bandwidth for done in rounds]),
        memory=_memory(footprints),
        drawing=_drawing(laps),
        no_energy="this machine's energy could not be read" if unread else "",
    )


def _depths(bundle: Bundle, loaded: Loaded, todo: Course, rounds: Sequence[Round]) -> Iterator[AtDepth]:
    facts = bundle.manifest
    weights = step_bytes(bundle, loaded.graph)
    token = memory.kv_per_token(facts.model, facts.graphs[loaded.graph].kv)
    for depth in todo.depths:
        read = weights + token * (depth + (todo.steps + 1) // 2)
        decode = [done.own.speeds.decode[depth] for done in rounds]
        reached = [read * speed / 1e9 for speed in decode]
        shares = [speed / done.bandwidth for speed, done in zip(reached, rounds, strict=True)]
        used = [done.own.joules[depth] for done in rounds if depth in done.own.joules]
        joules = figure(used) if len(used) == len(rounds) else None
        yield AtDepth(depth, figure(decode), read, figure(reached), figure(shares), joules)


def _memory(footprints: Sequence[Footprint]) -> Memory | None:
    known = [found.resident for found in footprints if found.resident]
    if not known:
        return None
    return Memory(
        figure([found.anonymous for found in known]),
        figure([found.files for found in known]),
        figure([found.peak for found in known]),
    )


def _drawing(laps: Sequence[Lap]) -> Drawing:
    """A step's time is that at the least depth."""
    speeds = [next(iter(lap.speeds.decode.values())) for lap in laps]
    greedy = [lap.greedy * speed for lap, speed in zip(laps, speeds, strict=True)]
    sampled = [lap.sampled * speed for lap, speed in zip(laps, speeds, strict=True)]
    return Drawing(figure(greedy), figure(sampled))


def _against(rival: Rival, number: int, rounds: Sequence[Round]) -> Against:
    own, theirs = [done.own.speeds for done in rounds], [done.peers[number] for done in rounds]
    return Against(
        rival.name,
        rival.path,
        figure([speeds.prefill for speeds in theirs]),
        _ratio([speeds.prefill for speeds in own], [speeds.prefill for speeds in theirs]),
        tuple(
            PeerAtDepth(
                depth,
                figure([speeds.decode[depth] for speeds in theirs]),
                _ratio([speeds.decode[depth] for speeds in own], [speeds.decode[depth] for speeds in theirs]),
            )
            for depth in own[0].decode
        ),
    )


def _ratio(own: Sequence[float], theirs: Sequence[float]) -> Figure:
    """How many times as fast, round by round."""
    return figure([ours / other for ours, other in zip(own, theirs, strict=True)])


def _curve(own: Runner, told: Told) -> Curve:
    """From an empty cache to a full one, in one session that grows."""
    capacity = own.decoder.capacity
    steps = max(1, min(CURVE_STEPS, capacity // (2 * CURVE_POINTS)))
    points = []
    for depth in np.linspace(0, capacity - steps, CURVE_POINTS).astype(int).tolist():
        seconds = own.step_seconds(depth, steps)
        points.append(Point(depth + (steps - 1) / 2, 1000 * statistics.median(seconds)))
        told.step()
    return fitted(points)


def fitted(points: Sequence[Point]) -> Curve:
    """The straight line through points by least squares."""
    depths = np.array([point.depth for point in points])
    times = np.array([point.milliseconds for point in points])
    line = np.stack([np.ones_like(depths), depths / 1000], axis=1)
    (begin, slope), *_ = np.linalg.lstsq(line, times)
    spread = float(np.sum((times - times.mean()) ** 2))
    missed = float(np.sum((times - begin - slope * depths / 1000) ** 2))
    return Curve(tuple(points), float(begin), float(slope), 1 - missed / spread if spread else 1.0)
