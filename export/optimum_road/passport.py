"""Passport of this road: the bundle's predictions against those of the fp32 graph that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgert import devices
from edgert.bundle import Bundle, graph_io
from edgert.engine import golden
from edgert.engine.decoder import open_decoder
from edgert.engine.fidelity import Tally, diverge
from edgert.engine.graph_session import GraphSession, InferenceSession, session_options
from edgert.export.checkpoint import FloatArray, Tokens
from edgert.export.passport import Passport, Progress
from edgert.export.sample import Sample
from edgert.text.tokenizer import open_tokenizer

from .interface import Cache


class Traced:
    """A traced graph, run over whole texts."""

    def __init__(self, graph: Path, cache: Cache) -> None:
        self._session = InferenceSession(
            str(graph), session_options(0, spin=False), providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._cache = cache

    def logits(self, tokens: Tokens) -> FloatArray:
        """(tokens, vocab) after each of a text's tokens (tokens,)."""
        cache, positions = self._cache, np.arange(len(tokens), dtype=np.int64)[None]
        nothing = np.zeros((1, cache.num_kv_heads, 0, cache.head_dim), np.float32)
        fed: dict[str, npt.NDArray[Any]] = {
            graph_io.INPUT_IDS: tokens[None],
            graph_io.ATTENTION_MASK: np.ones_like(positions),
            graph_io.POSITION_IDS: positions,
        }
        fed |= {
            graph_io.past(layer, part): nothing
            for layer in range(cache.num_layers)
            for part in graph_io.PARTS
        }
        known = {name: array for name, array in fed.items() if name in self._inputs}
        found: FloatArray = self._session.run([graph_io.LOGITS], known)[0][0]
        return found


def measure(traced: Path, cache: Cache, bundle: Bundle, sample: Sample, progress: Progress) -> Passport:
    """Run both graphs over the sample, and the bundle's over the golden texts. Raises BundleError."""
    (name, facts), *_ = bundle.manifest.graphs.items()
    window = sample.measuring.shape[1]
    original, profile = Traced(traced, cache), replace(devices.load(devices.DEFAULT), spin=False)
    decoder = open_decoder(GraphSession(bundle, profile, name), bundle.manifest.model, facts, window, window)
    tally = Tally()
    for done, (tokens, following) in enumerate(_windows(sample), 1):
        tally.add(diverge(original.logits(tokens), decoder.score(tokens.tolist()), following))
        progress(done, len(sample.measuring))
    tokenizer = open_tokenizer(bundle)
    texts = [*(tokenizer.encode(text) for text in golden.TEXTS), sample.measuring[0].tolist()]
    return Passport({name: tally.fidelity}, golden.record(decoder, texts))


def _windows(sample: Sample) -> Iterator[tuple[Tokens, Tokens]]:
    yield from zip(sample.measuring, sample.following, strict=True)
