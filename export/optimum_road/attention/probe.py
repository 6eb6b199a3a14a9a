"""Probe: values inside a traced graph, for random tokens after a random cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
NO_PREPACKING = "session.disable_prepacking"  # weights stay in the mapped file


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

    def run(self, wanted: Iterable[str], past: int, tokens: int) -> Values:
        """Values by name, in a run of so many tokens after so many in the cache.

        Keys and values of all layers are the same random numbers: a long past takes little memory.
        """
        names = list(dict.fromkeys(wanted))
        ir.save(self._part(names), self.folder / FILE)
        options = session_options(0, spin=False)
        options.add_session_config_entry(NO_PREPACKING, "1")
        session = InferenceSession(str(self.folder / FILE), options, providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}
        fed = {name: array for name, array in self._fed(past, tokens).items() if name in known}
        found = dict(zip(names, session.run(names, fed), strict=True))
        (self.folder / FILE).unlink()
        return found

    def _part(self, names: list[str]) -> ir.Model:
        part = self.model.clone()
        values = {str(value.name): value for node in part.graph for value in node.outputs}
        values |= {str(value.name): value for value in part.graph.inputs}
        part.graph.outputs.clear()
        part.graph.outputs.extend(values[name] for name in names)
        clean.RemoveUnusedNodesPass()(part)
        return part

    def _fed(self, past: int, tokens: int) -> Values:
        draw, cache = np.random.default_rng(past), self.cache
        shape = (1, cache.num_kv_heads, past, cache.head_dim)
        fed: dict[str, Array] = {
            graph_io.INPUT_IDS: draw.integers(1, self.vocab, (1, tokens)),
            graph_io.ATTENTION_MASK: np.ones((1, past + tokens), np.int64),
            graph_io.POSITION_IDS: np.arange(past, past + tokens, dtype=np.int64)[None],
            graph_io.LOGITS_POSITIONS: np.arange(tokens, dtype=np.int64),
            graph_io.SEQLENS_K: np.array([past + tokens - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(past + tokens, np.int32),
        }
        kept = {part: draw.normal(size=shape).astype(np.float32) for part in graph_io.PARTS}
        return fed | {
            graph_io.past(layer, part): kept[part]
            for layer in range(cache.num_layers)
            for part in graph_io.PARTS
        }
