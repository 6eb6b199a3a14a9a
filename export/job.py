"""Job: one export, from an opened checkpoint to the files of a bundle, and the measurement that ends it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgert.bundle import GOLDEN, GRAPH, Bundle, Manifest
from edgert.bundle.graph_io import FP32, KV_KINDS
from edgert.devices import DeviceProfile
from edgert.engine import golden, memory
from edgert.errors import EdgertWarning, FidelityError, UsageError

from . import DEFAULT_MAX_CONTEXT, ExportOptions, Progress
from .checkpoint import Checkpoint
from .checkpoint.adapter import merged, open_adapter
from .checkpoint.adapter_texts import read_texts
from .checkpoint.basis import READ_BLOCK, Turn, rotated, turns
from .checkpoint.sampling import thinks
from .checkpoint.spec import ModelSpec
from .matrix import MatrixName, matrices
from .mixed import Choices
from .passport import measure
from .recipe import Recipe, fp32, int4, int8, shared, with_fine_head
from .sample import Sample, read_sample
from .sensitivity import Group, by_layer, by_matrix, costs
from .separate import SeparateAdapter
from .writer import DeviceGroup, Plan, preview, write_bundle, write_manifest, write_text

INT8_CALIBRATION_WINDOWS = 8  # they calibrate 8-bit weights as well as four times as many do
TRIAL_WINDOWS = 2  # on which each matrix is tried alone
MAX_ATTEMPTS = 4  # at an export that keeps to --max-kl


@dataclass(frozen=True)
class Job:
    """What to make of a checkpoint, for which devices.

    Methods are given it as `in_basis`, too: in the basis that the recipe stores it in.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    profiles: tuple[DeviceProfile, ...]
    name: str
    progress: Progress
    context: int

    def run(self, aside: Path) -> Manifest:
        """Write the bundle into `aside`. Raises ValueError, FidelityError, UsageError."""
        recipe = self._shared_recipe()
        self._warn_if_slow()
        self._warn_of_recommended_sampling()
        self._warn_of_texts_left()
        sample = self._sample(recipe)
        in_basis = self.checkpoint
        if recipe.rotated:
            in_basis = rotated(in_basis, recipe.hadamard, spread=recipe.spread)
        if self.options.quant == "mixed" and sample is not None:
            recipe, manifest = self._mixed(in_basis, recipe, sample, aside)
        else:
            manifest = self._written(in_basis, recipe, sample, aside)
        self._check(manifest, in_basis, recipe, sample)
        write_manifest(manifest, aside)
        return manifest

    def _warn_if_slow(self) -> None:
        """Some devices have no quick kernel for what was asked for."""
        for profile in self.profiles:
            label = self._recipe(profile).label
            if profile.is_slow(label):
                warnings.warn(
                    f"--quant {self.options.quant} on {profile.name}: a token will take about "
                    f"{profile.cost(label):.0f} times as long as with int8, which has a kernel there",
                    EdgertWarning,
                    stacklevel=4,
                )

    def _warn_of_recommended_sampling(self) -> None:
        """A source of a student that thinks should name its temperature."""
        defaults = self.checkpoint.generation
        if thinks(self.checkpoint.tokenizer) and not self.checkpoint.names_temperature:
            warnings.warn(
                f"{self.name} knows <think>, and its source names no temperature: the bundle takes "
                f"{defaults.temperature} and top_p {defaults.top_p}, after DeepSeek's advice for R1; "
                "--temperature overrides it",
                EdgertWarning,
                stacklevel=4,
            )

    def _warn_of_texts_left(self) -> None:
        """All adapters beside a base are asked with its chat template. Raises CheckpointError."""
        for folder in self.options.separate_adapters.values():
            read_texts(folder, self.checkpoint, self.checkpoint.spec.vocab_size).say_left()

    def preview(self) -> Manifest:
        """The manifest that the bundle would have; no weights are read."""
        recipe = self._shared_recipe()
        return preview(
            self.checkpoint,
            self._plan(recipe),
        )

    def _plan(self, recipe: Recipe) -> Plan:
        groups, adapters = self._device_groups(recipe), self._adapters(recipe)
        return Plan(self.name, recipe, groups, self.context, self._caches(), adapters=adapters)

    def _adapters(self, recipe: Recipe) -> tuple[SeparateAdapter, ...]:
        """Those that stay beside the base, in its basis."""
        separate = self.options.separate_adapters
        turned: Mapping[str, Turn] = {}
        if recipe.rotated and separate:
            turned = turns(self.checkpoint, recipe.hadamard, spread=recipe.spread)
        return tuple(
            SeparateAdapter(name, open_adapter(folder, self.checkpoint), turned)
            for name, folder in separate.items()
        )

    def _mixed(
        self, in_basis: Checkpoint, recipe: Recipe, sample: Sample, aside: Path
    ) -> tuple[Recipe, Manifest]:
        """What costs add up to is only a guess at the whole: it is corrected by what the whole measured."""
        found = self._costs(in_basis, recipe, by_matrix(matrices(in_basis)), sample)
        choices, bound = Choices(recipe, matrices(in_basis), found), self.options.max_kl
        if self.options.target_size is not None:
            chosen = choices.within(self.options.target_size)
            return chosen, self._written(in_basis, chosen, sample, aside)
        chosen = recipe
        for _ in range(MAX_ATTEMPTS):
            manifest = self._written(in_basis, chosen, sample, aside)
            measured = _of_weights(manifest)
            if bound is None or measured is None or measured <= bound:
                break
            choices = choices.corrected(chosen, measured)
            wider = choices.below(bound)
            if len(wider.exceptions) <= len(chosen.exceptions):
                break
            chosen = wider
        return chosen, manifest

    def _written(self, in_basis: Checkpoint, recipe: Recipe, sample: Sample | None, aside: Path) -> Manifest:
        """Everything but the manifest file, measured if that is wanted."""
        plan = self._plan(recipe)
        if sample is not None:
            windows = INT8_CALIBRATION_WINDOWS if self.options.quant == "int8" else None
            plan = replace(plan, calibrating=sample.calibrating[:windows])
        manifest = write_bundle(in_basis, aside, plan, lambda *done: self.progress("Exporting", *done))
        if sample is None or not self.options.verify:
            return manifest
        memory.give_back()  # what rounding has freed
        bundle = Bundle(aside, manifest)
        beside = {separate.name: separate.adapter for separate in plan.adapters}
        found = measure(
            self.checkpoint, bundle, sample, lambda *done: self.progress("Measuring", *done), beside
        )
        graphs = {
            name: replace(facts, fidelity=found.fidelity[name]) for name, facts in manifest.graphs.items()
        }
        adapters = {
            name: replace(facts, fidelity=found.adapters[name]) for name, facts in manifest.adapters.items()
        }
        files = {**manifest.files, GOLDEN: write_text(aside / GOLDEN, golden.to_json(found.golden))}
        return replace(manifest, graphs=graphs, adapters=adapters, sample=sample.name, files=files)

    def _shared_recipe(self) -> Recipe:
        """How weights are stored for all devices together. Raises UsageError where they can't agree."""
        options, spec = self.options, self.checkpoint.spec
        if options.quant == "fp32":
            return fp32()
        try:
            recipe = shared([self._recipe(profile) for profile in self.profiles])
        except ValueError as error:
            named = " and ".join(profile.name for profile in self.profiles)
            raise UsageError(f"{named} can't share a bundle: {error}; export one for each") from error
        if options.quant == "int4":
            recipe = with_fine_head(recipe, self.checkpoint, matrices(self.checkpoint))
        power_of_two = spec.intermediate_size & -spec.intermediate_size
        wanted = max(recipe.hadamard, READ_BLOCK) if spec.post_norms else recipe.hadamard
        hadamard = min(wanted, power_of_two) if recipe.rotated else 0
        spread = recipe.rotated and recipe.spread
        calibrated = recipe.calibrated and options.calibrate
        return replace(recipe, scheme=options.quant, hadamard=hadamard, spread=spread, calibrated=calibrated)

    def _recipe(self, profile: DeviceProfile) -> Recipe:
        """What one device would have for itself."""
        if self.options.quant == "fp32":
            return fp32()
        make = int8 if self.options.quant == "int8" else int4
        return make(profile, self.options.block_size)

    def _device_groups(self, shared_recipe: Recipe) -> tuple[DeviceGroup, ...]:
        """One for all devices that read the weights alike."""
        groups: list[DeviceGroup] = []
        for profile in self.profiles:
            recipe = replace(self._recipe(profile).reading(shared_recipe), wide={})  # it has served
            found = next((i for i, group in enumerate(groups) if group.recipe == recipe), None)
            if found is None:
                groups.append(DeviceGroup(recipe, (profile.name,)))
            else:
                groups[found] = replace(groups[found], devices=(*groups[found].devices, profile.name))
        return tuple(groups)

    def _caches(self) -> tuple[str, ...]:
        """Which caches the graphs have, the default first: what was asked for, else what devices want."""
        if self.options.kv is not None:
            return tuple(dict.fromkeys((self.options.kv, FP32.name)))
        wanted = {FP32.name, *(profile.kv for profile in self.profiles)}
        return tuple(kv for kv in KV_KINDS if kv in wanted)

    def _sample(self, recipe: Recipe) -> Sample | None:
        """Nothing is read that nothing needs: an fp32 bundle is its own reference."""
        options = self.options
        needed = recipe.calibrated or options.verify or options.quant == "mixed"
        if (options.quant == "fp32" or not needed) and self._caches() == (FP32.name,):
            return None
        return read_sample(self.checkpoint, options.calibration, self.context)

    def _check(self, manifest: Manifest, in_basis: Checkpoint, recipe: Recipe, sample: Sample | None) -> None:
        """Raises FidelityError that names the layers that cost most."""
        found = [("", facts.fidelity) for facts in manifest.graphs.values()]
        found += [(f"with {name}: ", facts.fidelity) for name, facts in manifest.adapters.items()]
        kls = ((fidelity.mean_kl, where) for where, fidelity in found if fidelity)
        highest, where = max(kls, default=(0.0, ""))
        bound = self.options.max_kl
        if bound is None or sample is None or highest <= bound:
            return
        alone = self._costs(in_basis, recipe, by_layer(matrices(in_basis)), sample)
        worst = sorted(alone, key=lambda name: -alone[name])[:3]
        named = ", ".join(f"{name} {alone[name]:.4f}" for name in worst)
        raise FidelityError(
            f"{where}mean KL {highest:.4f} is above --max-kl {bound}; rounded to nearest and alone, "
            f"the costliest are: {named}. More bits, a smaller --block-size or --kv fp32 lose less"
        )

    def _costs(
        self,
        in_basis: Checkpoint,
        recipe: Recipe,
        groups: Mapping[Group, Iterable[MatrixName]],
        sample: Sample,
    ) -> dict[Group, float]:
        tokens = sample.calibrating[:TRIAL_WINDOWS]
        return costs(in_basis, recipe, groups, tokens, lambda *done: self.progress("Trying", *done))


def _of_weights(manifest: Manifest) -> float | None:
    """The mean KL that weights have caused, without that of 8-bit keys; None if nothing was measured."""
    measured = manifest.graphs[GRAPH].fidelity
    return measured.mean_kl if measured else None


def open_job(
    checkpoint: Checkpoint,
    options: ExportOptions,
    profiles: tuple[DeviceProfile, ...],
    name: str,
    progress: Progress,
) -> Job:
    """Merges adapters and settles the context, and with it which factors of a LongRoPE model apply.

    Raises UsageError, CheckpointError.
    """
    checkpoint = merged(checkpoint, options.adapters)
    context = _context(options.max_context, checkpoint.spec)
    spec = replace(checkpoint.spec, rope=checkpoint.spec.rope.settled(context))
    generation = options.defaults(checkpoint.generation)
    settled = replace(checkpoint, spec=spec, generation=generation)
    return Job(settled, options, profiles, name, progress, context)


def _context(asked: int | None, spec: ModelSpec) -> int:
    """LongRoPE's factors for long contexts blunt short ones: they are used only when asked for."""
    if asked is None:
        usual = spec.rope.original_context if spec.rope.long_divisors else spec.max_context
        return min(usual, spec.max_context, DEFAULT_MAX_CONTEXT)
    if not 1 <= asked <= spec.max_context:
        raise UsageError(f"--max-context must be between 1 and the model's {spec.max_context}, not {asked}")
    return asked
