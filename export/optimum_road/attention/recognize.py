"""Recognize: what each layer's attention computes, in terms of GroupQueryAttention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from .anchors import Anchors, before, find, tables_before
from .layout import Layout, Source
from .probe import Array, Probe, Values
from .rotary import Table, fit_rotated, fit_table, readings
from .scores import Scores, equal, fit_scores, fit_window, ratio, round_off

PAST, TOKENS = 5, 7  # of the short run; hardly sizes of a model
LAST = 2  # tokens of the long run
MASKED = -1e30  # scores below are of tokens that aren't seen

Fit = TypeVar("Fit")


@dataclass(frozen=True)
class Read:
    """Where queries and keys are read: they are rotated by `table`, then queries multiplied by `scale`."""

    query: Source
    key: Source
    table: Table | None
    scale: float


@dataclass(frozen=True)
class Attention:
    """One layer's: what it reads, what it computes, and the value that it gives, flat.

    `window`: tokens that each one sees, 0 for all. `table`: None where nothing is rotated, or where that
    stays in the graph.
    """

    query: Source
    key: Source
    value: Source
    num_heads: int
    scores: Scores
    window: int
    table: Table | None
    attended: ir.Value

    def __str__(self) -> str:
        said = [f"scale {self.scores.scale:g}"]
        said += [f"window of {self.window}"] if self.window else []
        said += [f"soft cap {self.scores.softcap:g}"] if self.scores.softcap else []
        said += ["ALiBi"] if self.scores.slopes else []
        said += ["rotary"] if self.table else []
        return ", ".join(said)


def recognize(probe: Probe, context: int) -> list[Attention] | dict[str, str]:
    """The attention of every layer; or why layers are something else, by name."""
    found = [find(probe.model.graph, layer) for layer in range(probe.cache.num_layers)]
    anchors = [anchors for anchors in found if isinstance(anchors, Anchors)]
    if len(anchors) < len(found):
        return {f"layers.{layer}": why for layer, why in enumerate(found) if isinstance(why, str)}
    short = probe.run((str(value.name) for layer in anchors for value in _looked_at(layer)), PAST, TOKENS)
    past = max(PAST, context - LAST)
    long = probe.run((str(layer.scores.name) for layer in anchors), past, LAST)
    made = [Layer(layer, short, long, past, probe.cache.head_dim).attention() for layer in anchors]
    refused = {f"layers.{layer}": why for layer, why in enumerate(made) if isinstance(why, str)}
    return refused or [attention for attention in made if isinstance(attention, Attention)]


def _looked_at(layer: Anchors) -> Iterator[ir.Value]:
    """What the short run has to show."""
    yield from (layer.keys, layer.values, layer.scores, layer.probabilities, *layer.attended)
    yield from (layer.tanh,) if layer.tanh is not None else ()
    yield from itertools.chain(*tables_before(layer.key))
    for value in (layer.query, layer.key, layer.value):
        yield from before(value)


@dataclass(frozen=True)
class Layer:
    """One layer's anchors, and the values of a short run and of a long one after `past` tokens."""

    anchors: Anchors
    short: Values
    long: Values
    past: int
    head_dim: int

    def attention(self) -> Attention | str:
        """What the layer computes, or why it isn't GroupQueryAttention."""
        window, scores, attended = self._window(), self._scores(), self._attended()
        if isinstance(window, str):
            return window
        if scores is None:
            return "its scores are more than scaled products"
        if attended is None:
            return "what it gives is more than weighed values"
        read, value = self._rotated() or self._plain(), self._first(self.anchors.value, equal)
        if read is None or value is None:
            return "its queries, keys or values have a layout of their own"
        scores = replace(scores, scale=round_off(scores.scale * read.scale))
        heads = len(self._heads(self.anchors.query))
        return Attention(read.query, read.key, value[0], heads, scores, window, read.table, attended)

    def _window(self) -> int | str:
        scores = self.long[str(self.anchors.scores.name)]
        return fit_window(scores.reshape(-1, LAST, scores.shape[-1]) > MASKED, self.past)

    def _scores(self) -> Scores | None:
        query, keys = self._heads(self.anchors.query), self._heads(self.anchors.keys)
        if len(query) % len(keys):
            return None
        product = query @ _repeat(keys, len(query)).transpose(0, 2, 1)
        scores = self._pairs(self.anchors.scores)
        tanh = self._pairs(self.anchors.tanh) if self.anchors.tanh is not None else None
        return fit_scores(product, scores, scores > MASKED, tanh)

    def _attended(self) -> ir.Value | None:
        """The first value (1, tokens, heads · head_dim) that holds the weighed values."""
        probabilities, values = self._pairs(self.anchors.probabilities), self._heads(self.anchors.values)
        weighed = probabilities @ _repeat(values, len(probabilities))
        flat = weighed.transpose(1, 0, 2).reshape(1, TOKENS, -1)
        same = (value for value in self.anchors.attended if equal(self.short[str(value.name)], flat))
        return next(same, None)

    def _rotated(self) -> Read | None:
        """By a table that rotates both keys and queries."""
        for table in self._tables():
            angles = self.short[table.cos], self.short[table.sin]
            key = self._first(self.anchors.key, partial(fit_table, table, *angles))
            if key is None:
                continue
            source, fitted = key
            query = self._first(self.anchors.query, partial(fit_rotated, fitted, *angles))
            if query is not None:
                return Read(query[0], source, fitted, query[1])
        return None

    def _plain(self) -> Read | None:
        query, key = self._first(self.anchors.query, ratio), self._first(self.anchors.key, equal)
        return Read(query[0], key[0], None, query[1]) if query is not None and key is not None else None

    def _tables(self) -> Iterator[Table]:
        for cos, sin in itertools.product(*tables_before(self.anchors.key)):
            yield from readings(str(cos.name), str(sin.name), self.short[str(cos.name)].shape[-1])

    def _first(self, value: ir.Value, fit: Callable[[Array, Array], Fit | None]) -> tuple[Source, Fit] | None:
        """The cheapest value before this one of which it can be made, and how."""
        target = self._heads(value)
        for layout, candidate in itertools.product(Layout, before(value)):
            array = layout.by_head(self.short[str(candidate.name)], *target.shape)
            if array is not None and (fitted := fit(array, target)):
                return Source(candidate, layout), fitted
        return None

    def _heads(self, value: ir.Value) -> Array:
        """(heads, tokens, head_dim) of what has a batch of one before its heads, or nothing."""
        array = self.short[str(value.name)]
        return array.reshape(-1, array.shape[-2], self.head_dim)

    def _pairs(self, value: ir.Value) -> Array:
        """(heads, tokens, total)."""
        array = self.short[str(value.name)]
        return array.reshape(-1, TOKENS, array.shape[-1])


def _repeat(array: Array, heads: int) -> Array:
    """Keys or values, each for all the queries that share it."""
    return np.repeat(array, heads // len(array), axis=0)
