"""Tuning: the device, threads and prefill chunk that are quickest for a bundle on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from edgert import devices
from edgert.bundle import Bundle
from edgert.bundle.record import Between
from edgert.devices import DeviceProfile
from edgert.engine import golden
from edgert.engine.decoder import Decoder
from edgert.engine.loading import check, choose_graph, load_graph
from edgert.engine.machine_note import MachineNote
from edgert.errors import DeviceError, EdgertError

NOTE = "tuned"
PROMPT_TOKENS = 512  # tokens that are read; then
DECODED_TOKENS = 24  # tokens are decoded
ROUNDS = 3  # medians are taken of
CHUNKS = (64, 128, 256, 512)
CLEARLY_FASTER = 1.03  # times as quick as the profile's own choice: less is noise

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trial:
    """One way to run a bundle; tokens per second of decoding and of prefill, or why it can't be used."""

    device: str
    threads: Annotated[int, Between(0, 1 << 16)]
    prefill_chunk: Annotated[int, Between(1, 1 << 24)]
    decode: float = 0.0
    prefill: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Tuning:
    """All trials on this machine, and the one that won."""

    winner: Trial
    trials: tuple[Trial, ...]

    @property
    def verdict(self) -> str:
        """Who won, and by how much the best of the other devices lost."""
        best = self.winner
        others = []
        for device in dict.fromkeys(trial.device for trial in self.trials if trial.device != best.device):
            trials = [trial for trial in self.trials if trial.device == device]
            rival = max(trials, key=lambda trial: trial.decode)
            others.append(f"{device} {rival.failure or _compared(rival, best)}")
        threads = f"{best.threads} threads" if best.threads else "onnxruntime's number of threads"
        chosen = f"using {best.device}, {threads}, prefill in chunks of {best.prefill_chunk}"
        return "; ".join([*others, chosen])

    def profile(self) -> DeviceProfile:
        """The winner's profile with what was measured. Raises DeviceError."""
        best = self.winner
        return replace(devices.load(best.device), threads=best.threads, prefill_chunk=best.prefill_chunk)

    @staticmethod
    def read(bundle: Bundle) -> Tuning | None:
        """What was measured for a bundle on this machine; None if nothing was since anything changed."""
        return MachineNote(bundle, NOTE, Tuning).read()


def _compared(rival: Trial, best: Trial) -> str:
    slower = 1 - rival.decode / best.decode
    if slower < CLEARLY_FASTER - 1:
        return f"is as fast as {best.device} here"
    return f"{slower:.0%} slower than {best.device} here"


def tune(bundle: Bundle, candidates: Sequence[DeviceProfile], progress: Progress) -> Tuning:
    """Measure and remember. The first candidate, this machine's own, wins where others don't clearly.

    Threads are chosen by decoding, which is most of an answer; then the chunk by prefill. Raises DeviceError
    if nothing works.
    """
    own, *others = candidates
    wanted = [replace(own, threads=threads) for threads in thread_counts(own)] + list(others)
    total = len(wanted) + len(CHUNKS)
    trials: list[Trial] = []
    for profile in wanted:
        trials.append(try_out(bundle, profile))
        progress(len(trials), total)
    best = _best(trials, lambda trial: trial.decode)
    if best.failure:
        raise DeviceError(f"nothing to choose from: {best.device} {best.failure}")
    usual = replace(devices.load(best.device), threads=best.threads)
    chunks = [best]
    for chunk in CHUNKS:
        if chunk != best.prefill_chunk:
            chunks.append(try_out(bundle, replace(usual, prefill_chunk=chunk)))
        progress(len(wanted) + len(chunks), total)
    found = Tuning(_best(chunks, lambda trial: trial.prefill), tuple(trials + chunks[1:]))
    MachineNote(bundle, NOTE, Tuning).try_to_write(found)
    return found


def thread_counts(profile: DeviceProfile) -> list[int]:
    """The profile's own number, 0 for onnxruntime's choice; then one less, half of it, all processors."""
    usual, every = profile.threads or devices.physical_threads().count, devices.processors()
    known = usual or every
    return [usual, *(n for n in dict.fromkeys((known - 1, known // 2, every)) if n >= 1 and n != usual)]


def _best(trials: Sequence[Trial], speed: Callable[[Trial], float]) -> Trial:
    """The quickest, but the first if nothing beats it clearly."""
    quickest = max(trials, key=speed)
    return quickest if speed(quickest) > CLEARLY_FASTER * speed(trials[0]) else trials[0]


def try_out(bundle: Bundle, profile: DeviceProfile) -> Trial:
    """Measure one way; a provider that can't run or answers wrong fails."""
    try:
        context = min(PROMPT_TOKENS + DECODED_TOKENS, bundle.manifest.model.context)
        loaded = load_graph(bundle, profile, choose_graph(bundle, profile, None), context)
        trial = Trial(profile.source, loaded.threads, profile.prefill_chunk)
        kl = check(bundle, loaded, again=True)
        if kl is not None and kl > golden.limit(bundle):
            return replace(trial, failure=f"answers wrong here (KL {kl:.4f})")
        prefill, decode = zip(*_rounds(loaded.decoder), strict=True)
    except EdgertError as error:
        return Trial(
            profile.source, profile.threads, profile.prefill_chunk, failure=f"can't be used: {error}"
        )
    return replace(trial, decode=statistics.median(decode), prefill=statistics.median(prefill))


def _rounds(decoder: Decoder) -> Iterator[tuple[float, float]]:
    """Tokens per second of prefill and of decoding, after a round that warms up."""
    steps = min(DECODED_TOKENS, decoder.capacity // 2)
    prompt = [1 + token % 97 for token in range(decoder.capacity - steps)]
    for number in range(ROUNDS + 1):
        slot = decoder.afresh()
        start = time.perf_counter()
        decoder.extend(slot, prompt)
        read = time.perf_counter()
        for _ in range(steps):
            decoder.decode([slot], [2])
        done = time.perf_counter()
        if number:
            yield len(prompt) / (read - start), steps / (done - read)


def tuned_profile(bundle: Bundle) -> DeviceProfile:
    """What was measured for a bundle here, or this machine's own profile."""
    tuning = Tuning.read(bundle)
    return tuning.profile() if tuning else devices.detect().profile


def figures(tuning: Tuning) -> list[dict[str, Any]]:
    """The trials as tables, the winner marked."""
    return [{**asdict(trial), "chosen": trial == tuning.winner} for trial in tuning.trials]
