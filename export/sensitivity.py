"""Sensitivity: what storing one matrix, or one layer, in a form costs, everything else left in fp32.

The variants travel together: a layer's weights are read once, and each variant that branched off before it
passes through. What is measured is the KL divergence of the final predictions, in nats a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgert.engine.fidelity import diverge

from .checkpoint import Checkpoint, FloatArray, Tokens
from .forms import Form
from .layerwise import Layerwise
from .recipe import Recipe

Groups = Mapping[str, Iterable[str]]  # a group's name → the names of its matrices, of one layer or a table


@dataclass(frozen=True)
class _Trial:
    """The checkpoint, what some of its matrices would be stored as, and the text to try it on."""

    layers: Layerwise
    recipe: Recipe
    groups: Groups
    tokens: Tokens

    def forms(self, group: str, layer: int) -> dict[str, Form]:
        """By kind, what the group has of a layer."""
        names = [name for name in self.groups[group] if name.startswith(f"layers.{layer}.")]
        return {name.rpartition(".")[2]: self.form(name) for name in names}

    def form(self, name: str) -> Form:
        return self.recipe.fitted(name, self.layers.matrices[name])

    def table(self, group: str, name: str) -> Form | None:
        return self.form(name) if name in self.groups[group] else None


def costs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    groups: Groups,
    tokens: Tokens,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Mean KL of storing each group alone as the recipe says, tokens (windows, length)."""
    layers = Layerwise(checkpoint, tokens.shape[1])
    trial = _Trial(layers, recipe, groups, tokens)
    exact = layers.embed(tokens)
    variants = {
        group: layers.embed(tokens, form) for group in groups if (form := trial.table(group, "embedding"))
    }
    for layer in range(checkpoint.spec.num_layers):
        exact, variants = _through(trial, layer, exact, variants)
        progress(layer + 1, checkpoint.spec.num_layers)
    variants |= {group: exact for group in groups if group not in variants}  # heads of their own
    return _divergences(trial, exact, variants)


def _through(
    trial: _Trial, layer: int, exact: FloatArray, variants: Mapping[str, FloatArray]
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """All variants past a layer, and those that branch off in it."""
    weights = trial.layers.weights(layer)

    def run(hidden: FloatArray) -> FloatArray:
        return np.concatenate([output.hidden for output in trial.layers.run(layer, weights, hidden)])

    passed = {group: run(hidden) for group, hidden in variants.items()}
    for group in trial.groups:
        if forms := trial.forms(group, layer):
            passed[group] = trial.layers.quantized(layer, weights, exact, forms)
    return run(exact), passed


def _divergences(trial: _Trial, exact: FloatArray, variants: Mapping[str, FloatArray]) -> dict[str, float]:
    """A window at a time, so that few logits are in memory."""
    tied = trial.layers.checkpoint.spec.tied_embeddings
    found: dict[str, list[float]] = {group: [] for group in variants}
    for window in range(len(exact)):
        expected = trial.layers.logits(trial.layers.final(exact[window]))
        for group, hidden in variants.items():
            head = trial.table(group, "embedding" if tied else "head")
            logits = trial.layers.logits(trial.layers.final(hidden[window]), head)
            nothing = np.zeros(len(logits), np.int64)
            found[group].append(float(diverge(expected, logits, nothing).kl.mean()))
    return {group: float(np.mean(values)) for group, values in found.items()}


def by_matrix(names: Iterable[str]) -> Groups:
    """Every matrix alone."""
    return {name: [name] for name in names}


def by_layer(names: Iterable[str]) -> Groups:
    """The matrices of each layer together, the tables alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = name.rpartition(".")[0].replace("layers.", "layer ") or name
        groups.setdefault(layer, []).append(name)
    return groups
