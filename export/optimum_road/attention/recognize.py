"""Recognize: what each layer's attention computes, in terms of GroupQueryAttention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from .anchors import Anchors, before, find, tables_before
from .layout import Layout, Source
from .probe import Array, Fed, Probe, Values
from .rotary import STEP, Table, fit_rotated, fit_table, readings, rotate
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
    """The attention of every layer; or why layers are something else, by name. Raises NotComputed.

    What is found at the beginning of the context has to hold at its end, too.
    """
    found = [find(probe.model.graph, layer) for layer in range(probe.cache.num_layers)]
    anchors = [anchors for anchors in found if isinstance(anchors, Anchors)]
    if len(anchors) < len(found):
        return {f"layers.{layer}": why for layer, why in enumerate(found) if isinstance(why, str)}
    if probe.cache.head_dim % STEP:
        return {"head_dim": f"{probe.cache.head_dim} is not a multiple of {STEP}"}
    begin, end = probe.fed([PAST], TOKENS), probe.fed([max(PAST, context - LAST)], LAST)
    first = probe.run((str(v.name) for layer in anchors for v in (*_read(layer), *_given(layer))), begin)
    last = probe.run((str(value.name) for layer in anchors for value in _read(layer)), end)
    made = [_attention(Layer(each, first, begin), Layer(each, last, end)) for each in anchors]
    refused = {f"layers.{layer}": why for layer, why in enumerate(made) if isinstance(why, str)}
    return refused or list(_alike(attention for attention in made if isinstance(attention, Attention)))


def _alike(layers: Iterable[Attention]) -> Iterator[Attention]:
    """Layers whose scores differ by rounding get the same: they share one bias."""
    known: list[Scores] = []
    for layer in layers:
        same = next((scores for scores in known if layer.scores.is_like(scores)), layer.scores)
        known.append(same)
        yield replace(layer, scores=same)


def _read(layer: Anchors) -> Iterator[ir.Value]:
    """What a run has to show of how scores are made."""
    yield layer.scores
    yield from (layer.tanh,) if layer.tanh is not None else ()
    yield from itertools.chain(*tables_before(layer.key))
    for value in (layer.query, layer.key, layer.value):
        yield from before(value)


def _given(layer: Anchors) -> Iterator[ir.Value]:
    """What comes of the scores; large, where the past is long."""
    yield from (layer.probabilities, *layer.attended)


def _attention(begin: Layer, end: Layer) -> Attention | str:
    """What a layer computes, or why it isn't GroupQueryAttention."""
    window, scores, later, attended = end.window(), begin.scores(), end.scores(), begin.attended()
    if isinstance(window, str):
        return window
    if scores is None or later is None:
        return "its scores are more than scaled products"
    if not scores.is_like(later):
        return "its scores change along the text"
    if attended is None:
        return "what it gives is more than weighed values"
    read, value = begin.rotated(), begin.first(begin.anchors.value, equal)
    if read is None or not end.confirms(read):
        read = begin.plain()
    if read is None or value is None or not end.confirms(read):
        return "its queries, keys or values have a layout of their own"
    scores = replace(scores, scale=round_off(scores.scale * read.scale))
    return Attention(read.query, read.key, value[0], begin.num_heads, scores, window, read.table, attended)


@dataclass(frozen=True)
class Layer:
    """One layer's anchors, and the values of a run."""

    anchors: Anchors
    values: Values
    fed: Fed

    @property
    def num_heads(self) -> int:
        """Of queries."""
        return len(self._heads(self.anchors.query))

    def window(self) -> int | str:
        """See `fit_window`."""
        return fit_window(self._pairs(self.anchors.scores) > MASKED, int(self.fed.held[0]))

    def scores(self) -> Scores | None:
        """See `fit_scores`."""
        query, keys = self._heads(self.anchors.query), self._cached(self.anchors.key, "key")
        if len(query) % len(keys):
            return None
        product = query @ _repeat(keys, len(query)).transpose(0, 2, 1)
        scores = self._pairs(self.anchors.scores)
        tanh = self._pairs(self.anchors.tanh) if self.anchors.tanh is not None else None
        if scores.shape != product.shape:
            return None
        return fit_scores(product, scores, scores > MASKED, tanh)

    def attended(self) -> ir.Value | None:
        """The first value (1, tokens, heads · head_dim) that holds the weighed values."""
        probabilities = self._pairs(self.anchors.probabilities)
        values = self._cached(self.anchors.value, "value")
        weighed = probabilities @ _repeat(values, len(probabilities))
        flat = weighed.transpose(1, 0, 2).reshape(1, self._tokens, -1)
        same = (value for value in self.anchors.attended if equal(self.values[str(value.name)], flat))
        return next(same, None)

    def rotated(self) -> Read | None:
        """By a table that rotates both keys and queries."""
        for table in self._tables():
            angles = self.values[table.cos], self.values[table.sin]
            key = self.first(self.anchors.key, partial(fit_table, table, *angles))
            if key is None:
                continue
            source, fitted = key
            query = self.first(self.anchors.query, partial(fit_rotated, fitted, *angles))
            if query is not None:
                return Read(query[0], source, fitted, query[1])
        return None

    def plain(self) -> Read | None:
        """As they are."""
        query, key = self.first(self.anchors.query, ratio), self.first(self.anchors.key, equal)
        return Read(query[0], key[0], None, query[1]) if query is not None and key is not None else None

    def confirms(self, read: Read) -> bool:
        """Whether queries and keys are made in this run, too, as they were in another."""
        query, key = self._source(read.query, self.anchors.query), self._source(read.key, self.anchors.key)
        if read.table is not None:
            angles = self.values[read.table.cos], self.values[read.table.sin]
            turned = [rotate(read.table, *angles, array) for array in (query, key) if array is not None]
            query, key = turned if len(turned) == 2 else (None, None)
        if query is None or key is None:
            return False
        return equal(query * read.scale, self._heads(self.anchors.query)) and equal(
            key, self._heads(self.anchors.key)
        )

    def first(self, value: ir.Value, fit: Callable[[Array, Array], Fit | None]) -> tuple[Source, Fit] | None:
        """The cheapest value before this one of which it can be made, and how."""
        target = self._heads(value)
        for layout, candidate in itertools.product(Layout, before(value)):
            array = self._source(Source(candidate, layout), value)
            if array is not None and (fitted := fit(array, target)):
                return Source(candidate, layout), fitted
        return None

    def _tables(self) -> Iterator[Table]:
        for cos, sin in itertools.product(*tables_before(self.anchors.key)):
            yield from readings(str(cos.name), str(sin.name), self.values[str(cos.name)].shape[-1])

    def _source(self, source: Source, value: ir.Value) -> Array | None:
        """What a source holds, laid out as the heads of a value."""
        return source.layout.by_head(self.values[str(source.value.name)], *self._heads(value).shape)

    @property
    def _tokens(self) -> int:
        return int(self.fed.ids.shape[1])

    def _cached(self, new: ir.Value, part: str) -> Array:
        """Keys or values of the whole cache, (heads, total, head_dim)."""
        return np.concatenate([self.fed.past[part][0], self._heads(new)], axis=1)

    def _heads(self, value: ir.Value) -> Array:
        """(heads, tokens, head_dim) of what has a batch of one before its heads, or nothing."""
        array, head_dim = self.values[str(value.name)], self.fed.past["key"].shape[-1]
        return array.reshape(-1, array.shape[-2], head_dim)

    def _pairs(self, value: ir.Value) -> Array:
        """(heads, tokens, total)."""
        array = self.values[str(value.name)]
        return array.reshape(-1, self._tokens, array.shape[-1])


def _repeat(array: Array, heads: int) -> Array:
    """Keys or values, each for all the queries that share it."""
    return np.repeat(array, heads // len(array), axis=0)
