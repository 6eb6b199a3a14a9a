"""Pace: how fast an engine reads a prompt, and decodes after shorter and longer ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgert.bench.energy import Meter
from edgert.bundle import Bundle
from edgert.engine.decoder import Decoder, Logits
from edgert.engine.slots import Slot
from edgert.text.prompts import BUILT_IN
from edgert.text.sampler import History, Sampler, Sampling
from edgert.text.tokenizer import Tokenizer

PROMPT_TOKENS = 512  # tokens
DECODED_TOKENS = 32  # tokens that are decoded at a depth
TIMED_DRAWS = 16  # tokens that a sampler draws to be timed
TEXT = " ".join(map(str, BUILT_IN))
GREEDY_SAMPLING, DRAWN_SAMPLING = Sampling(), Sampling(temperature=0.6, top_p=0.95)


@dataclass(frozen=True)
class Course:
    """What every engine has to do in a round: read `prompt` tokens from an empty cache; at each of `depths`,
    tokens that the cache holds before, decode `steps` more.
    """

    prompt: int
    depths: tuple[int, ...]
    steps: int


def course(depths: Sequence[int], context: int) -> tuple[Course, tuple[int, ...]]:
    """Of a cache of `context` tokens, and the depths that it can't hold."""
    steps = max(1, min(DECODED_TOKENS, context // 2))
    wanted = tuple(sorted(set(depths)))
    held = tuple(depth for depth in wanted if depth + steps <= context)
    return Course(min(PROMPT_TOKENS, context), held, steps), tuple(
        depth for depth in wanted if depth not in held
    )


@dataclass(frozen=True)
class Speeds:
    """Tokens per second in one round: of the prompt, and of decoding at each depth."""

    prefill: float
    decode: Mapping[int, float]


@dataclass(frozen=True)
class Lap:
    """One round of edgert's own engine.

    `first`: seconds from a prompt's text to its first token. `greedy` and `sampled`: seconds to choose a
    token, the likeliest, or one at temperature 0.6 and top-p 0.95. `joules` per token at each depth.
    """

    speeds: Speeds
    first: float
    greedy: float
    sampled: float
    joules: Mapping[int, float]


def text_tokens(tokenizer: Tokenizer, count: int) -> list[int]:
    """So many tokens of text, the same again and again: samplers are slower on what is no language."""
    ids = tokenizer.encode(TEXT)
    return (ids * (count // len(ids) + 1))[:count]


@dataclass(frozen=True)
class Runner:
    """An engine's decoder, the tokens it is fed (as many as a row holds), and a meter of energy."""

    decoder: Decoder
    tokens: Sequence[int]
    tokenizer: Tokenizer
    vocab: int
    meter: Meter | None = None

    def lap(self, course: Course) -> Lap:
        """One round, from an empty cache."""
        prompt = list(self.tokens[: course.prompt])
        text = self.tokenizer.decode(prompt)
        slot = self.decoder.afresh()
        start = time.perf_counter()
        logits = self.decoder.extend(slot, prompt)[0]
        read = time.perf_counter() - start
        greedy, sampled = (self._drawing(sampling, logits) for sampling in (GREEDY_SAMPLING, DRAWN_SAMPLING))
        start = time.perf_counter()
        self.tokenizer.encode(text)
        first = read + greedy + time.perf_counter() - start
        decode, joules = self._depths(course)
        return Lap(Speeds(len(prompt) / read, decode), first, greedy, sampled, joules)

    def step_seconds(self, depth: int, steps: int) -> list[float]:
        """Seconds of each of some steps, after the cache was brought to a depth; a longer cache than before
        only reads what is new.
        """
        slot, seconds = self._reach(depth), []
        for token in self.tokens[depth : depth + steps]:
            start = time.perf_counter()
            self.decoder.decode([slot], [token])
            seconds.append(time.perf_counter() - start)
        return seconds

    def _depths(self, course: Course) -> tuple[dict[int, float], dict[int, float]]:
        """Tokens per second and joules per token, the deepest first: the others then read nothing again."""
        decode, joules = {}, {}
        for depth in reversed(course.depths):
            slot = self._reach(depth)
            if self.meter:
                self.meter.start()
            start = time.perf_counter()
            for token in self.tokens[depth : depth + course.steps]:
                self.decoder.decode([slot], [token])
            decode[depth] = course.steps / (time.perf_counter() - start)
            used = self.meter.stop() if self.meter else None
            if used is not None:
                joules[depth] = used / course.steps
        return dict(sorted(decode.items())), dict(sorted(joules.items()))

    def _reach(self, depth: int) -> Slot:
        """Bring the row to a depth; of an empty one a first step is not measured."""
        slot = self.decoder.slots[0]
        slot.rewind(depth)
        if len(slot) < depth:
            self.decoder.extend(slot, self.tokens[len(slot) : depth])
        if not depth:
            self.decoder.decode([slot], self.tokens[:1])
            slot.rewind(0)
        return slot

    def _drawing(self, sampling: Sampling, logits: Logits) -> float:
        sampler, history = Sampler(sampling, self.vocab), History()
        seconds = []
        for _ in range(TIMED_DRAWS):
            start = time.perf_counter()
            sampler.choose(logits, history)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))


def runner(bundle: Bundle, decoder: Decoder, tokenizer: Tokenizer, meter: Meter | None = None) -> Runner:
    """Over as many tokens of text as the cache holds."""
    tokens = text_tokens(tokenizer, decoder.capacity)
    return Runner(decoder, tokens, tokenizer, bundle.manifest.model.vocab_size, meter)
