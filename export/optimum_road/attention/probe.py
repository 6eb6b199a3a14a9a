"""Probe: values inside a traced graph, for random tokens after a random cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as clean

from edgert.bundle import graph_io
from edgert.engine.graph_session import InferenceSession, session_options
from edgert.export.optimum_road.interface import Cache

Array: TypeAlias = npt.NDArray[Any]
Values: TypeAlias = Mapping[str, Array]

FILE = "probe.onnx"  # beside the traced graph, whose data it reads
SHARP = 4.0
NO_PREPACKING = "session.disable_prepacking"  # weights stay in the mapped file


class NotComputed(Exception):
    """A graph, or a part of one, that can't be run."""


@dataclass(frozen=True)
class Fed:
    """What a run is given: the last token of rows that hold so many, or several after one row's.

    Keys and values, (rows, heads, tokens held by the longest, head_dim), are random and the same for all
    layers: a long past takes little memory. Keys are large, so that few of them matter to each query.
    """

    ids: Array  # (rows, tokens)
    held: Array  # (rows,)
    past: Mapping[str, Array]  # by part

    @property
    def values(self) -> dict[str, Array]:
        """By the names of graph inputs, but for the cache."""
        rows, tokens = self.ids.shape
        total = int(self.held.max()) + tokens
        return {
            graph_io.INPUT_IDS: self.ids,
            graph_io.ATTENTION_MASK: np.ones((rows, total), np.int64),
            graph_io.POSITION_IDS: self.held[:, None] + np.arange(tokens),
            graph_io.LOGITS_POSITIONS: np.arange(tokens, dtype=np.int64),
            graph_io.SEQLENS_K: (self.held + tokens - 1).astype(np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(total, np.int32),
        }

    def row(self, number: int) -> Fed:
        """One row of several, alone."""
        one, held = slice(number, number + 1), int(self.held[number])
        past = {part: array[one, :, :held] for part, array in self.past.items()}
        return Fed(self.ids[one], self.held[one], past)


@dataclass(frozen=True)
class Probe:
    """Runs parts of a model whose data lie in `folder`; `vocab`: how many tokens there are."""

    model: ir.Model
    cache: Cache
    folder: Path
    vocab: int

    def input(self, name: str) -> ir.Value:
        """An input of the graph."""
        return next(value for value in self.model.graph.inputs if value.name == name)

    def fed(self, held: Sequence[int], tokens: int) -> Fed:
        """Random tokens after random keys and values, the same at each call."""
        draw = np.random.default_rng(max(held))
        shape = (len(held), self.cache.num_kv_heads, max(held), self.cache.head_dim)
        past = {part: draw.normal(size=shape).astype(np.float32) for part in graph_io.PARTS}
        past["key"] *= SHARP
        return Fed(draw.integers(1, self.vocab, (len(held), tokens)), np.array(held, np.int64), past)

    def run(self, wanted: Iterable[str], fed: Fed) -> Values:
        """Values by name. Raises NotComputed."""
        names, path = list(dict.fromkeys(wanted)), self.folder / FILE
        given = fed.values | {
            graph_io.past(layer, part): fed.past[part]
            for layer in range(self.cache.num_layers)
            for part in graph_io.PARTS
        }
        options = session_options(0, spin=False)
        options.add_session_config_entry(NO_PREPACKING, "1")
        try:
            ir.save(self._part(names), path)
            session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            known = {value.name for value in session.get_inputs()}
            found = session.run(names, {name: array for name, array in given.items() if name in known})
        except Exception as error:  # what onnxruntime raises has no type of its own
            raise NotComputed(str(error).strip().splitlines()[-1]) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return dict(zip(names, found, strict=True))

    def _part(self, names: list[str]) -> ir.Model:
        part = self.model.clone()
        values = {str(value.name): value for node in part.graph for value in node.outputs}
        values |= {str(value.name): value for value in part.graph.inputs}
        part.graph.outputs.clear()
        part.graph.outputs.extend(values[name] for name in names)
        clean.RemoveUnusedNodesPass()(part)
        return part
