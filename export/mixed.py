"""Mixed: which matrices get 8 bits instead of 4, by what each costs and what it would take.

Costs are measured with one matrix stored at a time and assumed to add up; the passport measures the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgert.errors import UsageError

from .matrix import Matrix, MatrixName
from .recipe import Recipe

NOISE_NATS = 1e-7  # below it a cost is noise


@dataclass(frozen=True)
class Choices:
    """A 4-bit recipe, and its matrices in the order in which 8 bits serve them best."""

    recipe: Recipe
    matrices: Mapping[MatrixName, Matrix]
    costs: Mapping[MatrixName, float]

    @property
    def order(self) -> list[MatrixName]:
        """Most nats saved per byte first."""
        return sorted(self.costs, key=lambda name: -max(self.costs[name], NOISE_NATS) / self._more(name))

    def within(self, target: int) -> Recipe:
        """As many 8-bit matrices as fit into `target` bytes. Raises UsageError if not even 4 bits do."""
        size = self.recipe.bytes(self.matrices)
        if size > target:
            raise UsageError(
                f"--target-size {target / 1e6:.0f} MB is not reachable: "
                f"4 bits everywhere take {size / 1e6:.0f} MB"
            )
        chosen = []
        for name in self.order:
            if size + self._more(name) <= target:
                size += self._more(name)
                chosen.append(name)
        return self.recipe.at_8_bits(chosen)

    def below(self, bound: float) -> Recipe:
        """8 bits for the costliest, until the others cost at most `bound` nats together."""
        left, chosen = sum(self.costs.values()), []
        for name in self.order:
            if left <= bound:
                break
            left -= self.costs[name]
            chosen.append(name)
        return self.recipe.at_8_bits(chosen)

    def corrected(self, chosen: Recipe, measured: float) -> Choices:
        """The same after an export whose matrices left at 4 bits cost `measured` nats in truth."""
        guessed = sum(cost for name, cost in self.costs.items() if name not in chosen.exceptions)
        factor = measured / max(guessed, NOISE_NATS)
        return replace(self, costs={name: cost * factor for name, cost in self.costs.items()})

    def _more(self, name: MatrixName) -> int:
        """Bytes that 8 bits take more than 4."""
        matrix = self.matrices[name]
        wider = self.recipe.at_8_bits([name])
        return wider.fitted(name, matrix).bytes(matrix.shape) - self.recipe.fitted(name, matrix).bytes(
            matrix.shape
        )
