"""Job: one export, from an opened checkpoint to the files of a bundle, and the measurement that ends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgert.bundle import Bundle, Fidelity, Manifest
from edgert.devices import DeviceProfile
from edgert.errors import FidelityError, UsageError

from . import DEFAULT_MAX_CONTEXT, ExportOptions, Progress
from .basis import rotated
from .checkpoint import Checkpoint
from .matrix import matrices
from .passport import measure
from .recipe import Recipe, fp32, int4, int8, with_fine_head
from .sample import Sample, read_sample
from .spec import ModelSpec
from .writer import Plan, write_bundle, write_manifest


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
        stored = rotated(self.checkpoint, recipe.hadamard) if recipe.rotated else self.checkpoint
        sample = self._sample(recipe)
        context = _context(self.options.max_context, self.checkpoint.spec)
        plan = Plan(self.name, recipe, self.profile.name, context, self.options.kv == "int8")
        if sample is not None:
            plan = replace(plan, calibrating=sample.calibrating)
        manifest = write_bundle(stored, aside, plan, lambda *done: self.progress("Exporting", *done))
        if sample is not None and self.options.verify:
            manifest = self._verified(manifest, aside, sample)
        write_manifest(manifest, aside)
        return manifest

    def _recipe(self) -> Recipe:
        options, profile = self.options, self.profile
        if options.quant == "fp32":
            return fp32()
        if options.quant == "int8":
            recipe = int8(profile, options.block_size)
        else:
            recipe = int4(profile, options.block_size)
            recipe = with_fine_head(recipe, self.checkpoint, matrices(self.checkpoint))
        divides = recipe.hadamard and self.checkpoint.spec.intermediate_size % recipe.hadamard == 0
        return recipe if divides else recipe.without_hadamard()

    def _sample(self, recipe: Recipe) -> Sample | None:
        """Nothing is read that nothing needs: an fp32 bundle is its own reference."""
        needed = recipe.calibrated or self.options.kv == "int8" or self.options.verify
        if self.options.quant == "fp32" and self.options.kv == "fp32":
            needed = False
        return read_sample(self.checkpoint, self.options.calibration) if needed else None

    def _verified(self, manifest: Manifest, aside: Path, sample: Sample) -> Manifest:
        bundle = Bundle(aside, manifest)
        found = measure(self.checkpoint, bundle, sample, lambda *done: self.progress("Measuring", *done))
        graphs = {name: replace(facts, fidelity=found[name]) for name, facts in manifest.graphs.items()}
        self._check(found)
        return replace(manifest, graphs=graphs, sample=sample.name)

    def _check(self, found: dict[str, Fidelity]) -> None:
        bound = self.options.max_kl
        worst = max(found.values(), key=lambda fidelity: fidelity.mean_kl)
        if bound is not None and worst.mean_kl > bound:
            raise FidelityError(f"mean KL {worst.mean_kl:.4f} is above --max-kl {bound}")


def _context(asked: int | None, spec: ModelSpec) -> int:
    """LongRoPE's factors for long contexts blunt short ones: they are used only when asked for."""
    if asked is None:
        usual = spec.rope.original_context if spec.rope.long_divisors else spec.max_context
        return min(usual, spec.max_context, DEFAULT_MAX_CONTEXT)
    if not 1 <= asked <= spec.max_context:
        raise UsageError(f"--max-context must be between 1 and the model's {spec.max_context}, not {asked}")
    return asked
