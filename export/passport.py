"""Passport: what a bundle keeps of the original, measured on a text it was not calibrated on.

The original is run in fp32 one layer at a time, the bundle by the runtime that users run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edgert import devices
from edgert.bundle import Bundle, Fidelity
from edgert.engine import golden
from edgert.engine.adapters import read_adapter
from edgert.engine.attention import keeps_scores
from edgert.engine.decoder import Decoder, open_decoder
from edgert.engine.fidelity import Divergence, Tally, diverge
from edgert.engine.golden import Golden
from edgert.engine.graph_session import GraphSession
from edgert.text.tokenizer import open_tokenizer

from .checkpoint import Checkpoint, FloatArray
from .checkpoint.adapter import Adapter, with_added
from .layerwise import Layerwise
from .sample import Sample
from .threads import ordered_map

Progress = Callable[[int, int], None]

NO_ADAPTERS: Mapping[str, Adapter] = {}


class Original:
    """A checkpoint's own predictions on the measuring windows of a sample."""

    def __init__(self, checkpoint: Checkpoint, sample: Sample, advance: Callable[[], None]) -> None:
        self._layers = Layerwise(checkpoint, sample.measuring.shape[1])
        hidden = self._layers.embed(sample.measuring)
        layers = range(checkpoint.spec.num_layers)
        for layer, weights in enumerate(ordered_map(self._layers.weights, layers, 1)):
            hidden = self._layers.run(layer, weights, hidden)
            advance()
        self._final = self._layers.final(hidden).reshape(hidden.shape)

    def logits(self, window: int) -> FloatArray:
        """(tokens, vocab) of one of the windows."""
        return self._layers.logits(self._final[window])


@dataclass
class Passport:
    """The fidelity of each graph of a bundle, and what the first of them predicts after the golden texts.

    `adapters`: that of the first graph with each adapter beside it, to the checkpoint with that one merged.
    """

    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    golden: list[Golden] = field(default_factory=list)
    adapters: dict[str, Fidelity] = field(default_factory=dict)


def measure(
    checkpoint: Checkpoint,
    bundle: Bundle,
    sample: Sample,
    progress: Progress,
    adapters: Mapping[str, Adapter] = NO_ADAPTERS,
) -> Passport:
    """Run every graph of a bundle, and the checkpoint, over the sample, and both with each of the bundle's
    `adapters`. Raises BundleError.
    """
    done, windows, graphs = 0, len(sample.measuring), bundle.manifest.graphs
    total = checkpoint.spec.num_layers * (1 + len(adapters)) + windows * (len(graphs) + len(adapters))

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    original = Original(checkpoint, sample, advance)
    passport = Passport()
    for graph in graphs:
        decoder = _decoder(bundle, graph, sample.measuring.shape[1])
        passport.fidelity[graph] = _fidelity(original, decoder, sample, advance)
        if not passport.golden:
            texts = [*_golden_texts(bundle), sample.measuring[0].tolist()]
            passport.golden = golden.record(decoder, texts)
    for name, adapter in adapters.items():
        original = Original(with_added(checkpoint, adapter), sample, advance)
        decoder = _decoder(bundle, next(iter(graphs)), sample.measuring.shape[1])
        decoder.use(read_adapter(bundle, name))
        passport.adapters[name] = _fidelity(original, decoder, sample, advance)
    return passport


def _decoder(bundle: Bundle, graph: str, window: int) -> Decoder:
    """Spinning workers would hold the cores that NumPy computes on between two windows."""
    profile, model = replace(devices.load(devices.DEFAULT), spin=False), bundle.manifest.model
    facts = bundle.manifest.graphs[graph]
    keep_scores = keeps_scores(model, facts, profile, window, devices.here().architecture)
    session = GraphSession(bundle, profile, graph, keep_scores=keep_scores)
    return open_decoder(session, model, facts, window, window)


def _golden_texts(bundle: Bundle) -> list[list[int]]:
    tokenizer = open_tokenizer(bundle)
    return [tokenizer.encode(text) for text in golden.TEXTS]


def _fidelity(original: Original, decoder: Decoder, sample: Sample, advance: Callable[[], None]) -> Fidelity:
    """The original's logits are computed and compared beside the scoring of the next window."""

    def compare(scored: tuple[int, FloatArray]) -> Divergence:
        window, logits = scored
        return diverge(original.logits(window), logits, sample.following[window])

    tally = Tally()
    scored = ((window, decoder.score(tokens.tolist())) for window, tokens in enumerate(sample.measuring))
    for divergence in ordered_map(compare, scored, 1):
        tally.add(divergence)
        advance()
    return tally.fidelity
