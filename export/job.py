"""Job: one export, from an opened checkpoint to the files of a bundle, and the measurement that ends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgert.bundle import Bundle, Manifest
from edgert.devices import DeviceProfile
from edgert.errors import FidelityError, UsageError

from . import DEFAULT_MAX_CONTEXT, ExportOptions, Progress
from .basis import rotated
from .checkpoint import Checkpoint
from .matrix import matrices
from .mixed import Choices
from .passport import measure
from .recipe import Recipe, fp32, int4, int8, with_fine_head
from .sample import Sample, read_sample
from .sensitivity import Groups, by_layer, by_matrix, costs
from .spec import ModelSpec
from .writer import Plan, write_bundle, write_manifest

FEW = 8  # windows that calibrate 8-bit weights as well as four times as many
TRIED = 2  # windows on which each matrix is tried alone
CORRECTIONS = 3  # exports more, if the first misses --max-kl


@dataclass(frozen=True)
class Job:
    """What to make of a checkpoint, for which device."""

    checkpoint: Checkpoint
    options: ExportOptions
    profile: DeviceProfile
    name: str
    progress: Progress

    def run(self, aside: Path) -> Manifest:
        """Write the bundle into `aside`. Raises ValueError, FidelityError, UsageError."""
        recipe = self._recipe()
        sample = self._sample(recipe)
        stored = rotated(self.checkpoint, recipe.hadamard) if recipe.rotated else self.checkpoint
        if self.options.quant == "mixed" and sample is not None:
            return self._mixed(stored, recipe, sample, aside)
        manifest = self._written(stored, recipe, sample, aside)
        if sample is not None and self.options.verify:
            self._check(manifest, stored, recipe, sample)
        write_manifest(manifest, aside)
        return manifest

    def _mixed(self, stored: Checkpoint, recipe: Recipe, sample: Sample, aside: Path) -> Manifest:
        """What costs add up to is only a guess at the whole: it is corrected by what the whole measured."""
        named, bound = matrices(stored), self.options.max_kl
        found = self._costs(stored, recipe, by_matrix(named), sample)
        choices = Choices(recipe, named, found)
        if self.options.target_size is not None:
            chosen = choices.within(self.options.target_size)
        else:
            chosen = choices.below(bound or 0)
        manifest = self._written(stored, chosen, sample, aside)
        for _ in range(CORRECTIONS):
            measured = _worst(manifest)
            if bound is None or measured is None or measured <= bound or self.options.target_size:
                break
            choices = choices.corrected(chosen, measured)
            chosen = choices.below(bound)
            manifest = self._written(stored, chosen, sample, aside)
        if self.options.verify:
            self._check(manifest, stored, chosen, sample)
        write_manifest(manifest, aside)
        return manifest

    def _written(self, stored: Checkpoint, recipe: Recipe, sample: Sample | None, aside: Path) -> Manifest:
        """Everything but the manifest file, measured if that is wanted."""
        context = _context(self.options.max_context, self.checkpoint.spec)
        plan = Plan(self.name, recipe, self.profile.name, context, self.options.kv == "int8")
        if sample is not None:
            few = self.options.quant == "int8"
            plan = replace(plan, calibrating=sample.calibrating[:FEW] if few else sample.calibrating)
        manifest = write_bundle(stored, aside, plan, lambda *done: self.progress("Exporting", *done))
        if sample is None or not self.options.verify:
            return manifest
        bundle = Bundle(aside, manifest)
        found = measure(self.checkpoint, bundle, sample, lambda *done: self.progress("Measuring", *done))
        graphs = {name: replace(facts, fidelity=found[name]) for name, facts in manifest.graphs.items()}
        return replace(manifest, graphs=graphs, sample=sample.name)

    def _recipe(self) -> Recipe:
        options, profile = self.options, self.profile
        if options.quant == "fp32":
            return fp32()
        if options.quant == "int8":
            recipe = int8(profile, options.block_size)
        else:
            recipe = int4(profile, options.block_size)
        if options.quant == "int4":
            recipe = with_fine_head(recipe, self.checkpoint, matrices(self.checkpoint))
        divides = recipe.hadamard and self.checkpoint.spec.intermediate_size % recipe.hadamard == 0
        return replace(
            recipe,
            scheme=options.quant,
            hadamard=recipe.hadamard if divides else 0,
            calibrated=recipe.calibrated and options.calibrate,
        )

    def _sample(self, recipe: Recipe) -> Sample | None:
        """Nothing is read that nothing needs: an fp32 bundle is its own reference."""
        needed = recipe.calibrated or self.options.kv == "int8" or self.options.verify
        if self.options.quant == "fp32" and self.options.kv == "fp32":
            needed = False
        return read_sample(self.checkpoint, self.options.calibration) if needed else None

    def _check(self, manifest: Manifest, stored: Checkpoint, recipe: Recipe, sample: Sample) -> None:
        """Raises FidelityError that names the layers that cost most."""
        bound, measured = self.options.max_kl, _worst(manifest)
        if bound is None or measured is None or measured <= bound:
            return
        found = self._costs(stored, recipe, by_layer(matrices(stored)), sample)
        worst = sorted(found, key=lambda name: -found[name])[:3]
        named = ", ".join(f"{name} {found[name]:.4f}" for name in worst)
        raise FidelityError(
            f"mean KL {measured:.4f} is above --max-kl {bound}; alone, the costliest are: {named}. "
            f"Try a smaller --block-size, --quant int8, or --quant mixed"
        )

    def _costs(self, stored: Checkpoint, recipe: Recipe, groups: Groups, sample: Sample) -> dict[str, float]:
        tokens = sample.calibrating[:TRIED]
        return costs(stored, recipe, groups, tokens, lambda *done: self.progress("Trying", *done))


def _worst(manifest: Manifest) -> float | None:
    """The mean KL of the worst graph, None if nothing was measured."""
    return max((facts.fidelity.mean_kl for facts in manifest.graphs.values() if facts.fidelity), default=None)


def _context(asked: int | None, spec: ModelSpec) -> int:
    """LongRoPE's factors for long contexts blunt short ones: they are used only when asked for."""
    if asked is None:
        usual = spec.rope.original_context if spec.rope.long_divisors else spec.max_context
        return min(usual, spec.max_context, DEFAULT_MAX_CONTEXT)
    if not 1 <= asked <= spec.max_context:
        raise UsageError(f"--max-context must be between 1 and the model's {spec.max_context}, not {asked}")
    return asked
