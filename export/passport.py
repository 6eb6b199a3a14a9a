"""Passport: what a bundle keeps of the original, measured on a text it was not calibrated on.

The original is run in fp32 a layer at a time, the bundle by the runtime that users run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from edgert import devices
from edgert.bundle import Bundle, Fidelity
from edgert.decoder import Decoder
from edgert.fidelity import Tally, diverge
from edgert.session import Session

from .checkpoint import Checkpoint, FloatArray
from .layerwise import Layerwise
from .sample import Sample

Progress = Callable[[int, int], None]


class Original:
    """A checkpoint's own predictions on the measuring windows of a sample."""

    def __init__(self, checkpoint: Checkpoint, sample: Sample, advance: Callable[[], None]) -> None:
        self._layers = Layerwise(checkpoint, sample.measuring.shape[1])
        hidden = self._layers.embed(sample.measuring)
        for layer in range(checkpoint.spec.num_layers):
            outputs = self._layers.run(layer, self._layers.weights(layer), hidden)
            hidden = np.concatenate([output.hidden for output in outputs])
            advance()
        self._final = self._layers.final(hidden).reshape(hidden.shape)

    def logits(self) -> Iterator[FloatArray]:
        """(tokens, vocab) of one window after the other."""
        for final in self._final:
            yield self._layers.logits(final)


def measure(
    checkpoint: Checkpoint, bundle: Bundle, sample: Sample, progress: Progress
) -> dict[str, Fidelity]:
    """The fidelity of each of a bundle's graphs to the checkpoint. Raises BundleError."""
    done, windows = 0, len(sample.measuring)
    total = checkpoint.spec.num_layers + windows * len(bundle.manifest.graphs)

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    original = Original(checkpoint, sample, advance)
    return {graph: _fidelity(original, bundle, graph, sample, advance) for graph in bundle.manifest.graphs}


def _fidelity(
    original: Original, bundle: Bundle, graph: str, sample: Sample, advance: Callable[[], None]
) -> Fidelity:
    facts, kv = bundle.manifest.model, bundle.manifest.graphs[graph].kv
    window = sample.measuring.shape[1]
    # Spinning workers would hold the cores that NumPy computes on between two windows.
    session = Session(bundle, replace(devices.load(devices.DEFAULT), spin=False), graph)
    decoder = Decoder(session, facts, window, window, kv)
    tally = Tally()
    for tokens, following, expected in zip(
        sample.measuring, sample.following, original.logits(), strict=True
    ):
        tally.add(diverge(expected, decoder.logits(tokens.tolist()), following))
        advance()
    return tally.fidelity
