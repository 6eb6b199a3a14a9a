"""Sensitivity: what storing one matrix, or one layer, in a form costs, everything else left in fp32.

The variants travel together: a layer's weights are read once, and each variant that branched off before it
passes through. What is measured is the KL divergence of the final predictions, in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from edgert.engine.fidelity import diverge

from .checkpoint import Checkpoint, FloatArray, Tokens
from .forms import Form
from .layerwise import Layerwise
from .matrix import EMBEDDING, MatrixName, head_name
from .recipe import Recipe

Group = TypeVar("Group", bound=Hashable)  # what stands for some matrices of one layer, or for a table


@dataclass(frozen=True)
class _Trial(Generic[Group]):
    """The checkpoint, what some of its matrices would be stored as, and the text to try it on."""

    layers: Layerwise
    recipe: Recipe
    groups: Mapping[Group, Iterable[MatrixName]]
    tokens: Tokens

    def forms(self, group: Group, layer: int) -> dict[str, Form]:
        """By kind, what the group has of a layer."""
        return {name.kind: self.form(name) for name in self.groups[group] if name.layer == layer}

    def form(self, name: MatrixName) -> Form:
        return self.recipe.fitted(name, self.layers.matrices[name])

    def table(self, group: Group, name: MatrixName) -> Form | None:
        return self.form(name) if name in self.groups[group] else None


def costs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    groups: Mapping[Group, Iterable[MatrixName]],
    tokens: Tokens,
    progress: Callable[[int, int], None],
) -> dict[Group, float]:
    """Mean KL of storing each group alone as the recipe says, tokens (windows, length)."""
    layers = Layerwise(checkpoint, tokens.shape[1])
    trial = _Trial(layers, recipe, groups, tokens)
    exact = layers.embed(tokens)
    variants = {
        group: layers.embed(tokens, form) for group in groups if (form := trial.table(group, EMBEDDING))
    }
    for layer in range(checkpoint.spec.num_layers):
        exact, variants = _through(trial, layer, exact, variants)
        progress(layer + 1, checkpoint.spec.num_layers)
    variants |= {group: exact for group in groups if group not in variants}  # heads of their own
    return _divergences(trial, exact, variants)


def _through(
    trial: _Trial[Group], layer: int, exact: FloatArray, variants: Mapping[Group, FloatArray]
) -> tuple[FloatArray, dict[Group, FloatArray]]:
    """All variants past a layer, and those that branch off in it."""
    weights = trial.layers.weights(layer)
    passed = {group: trial.layers.run(layer, weights, hidden) for group, hidden in variants.items()}
    for group in trial.groups:
        if forms := trial.forms(group, layer):
            passed[group] = trial.layers.quantized(layer, weights, exact, forms)
    return trial.layers.run(layer, weights, exact), passed


def _divergences(
    trial: _Trial[Group], exact: FloatArray, variants: Mapping[Group, FloatArray]
) -> dict[Group, float]:
    """A window at a time, so that few logits are in memory."""
    name = head_name(trial.layers.checkpoint.spec)
    found: dict[Group, list[float]] = {group: [] for group in variants}
    for window in range(len(exact)):
        expected = trial.layers.logits(trial.layers.final(exact[window]))
        for group, hidden in variants.items():
            head = trial.table(group, name)
            logits = trial.layers.logits(trial.layers.final(hidden[window]), head)
            nothing = np.zeros(len(logits), np.int64)
            found[group].append(float(diverge(expected, logits, nothing).kl.mean()))
    return {group: float(np.mean(values)) for group, values in found.items()}


def by_matrix(names: Iterable[MatrixName]) -> dict[MatrixName, list[MatrixName]]:
    """Every matrix alone."""
    return {name: [name] for name in names}


def by_layer(names: Iterable[MatrixName]) -> dict[str, list[MatrixName]]:
    """The matrices of each layer together, the tables alone."""
    groups: dict[str, list[MatrixName]] = {}
    for name in names:
        group = name.kind if name.layer is None else f"layer {name.layer}"
        groups.setdefault(group, []).append(name)
    return groups
