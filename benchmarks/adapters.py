"""Adapters: what a separate one costs per token and in memory, beside the same base exported without any.

    python benchmarks/adapters.py CHECKPOINT [--rank 16] [--rounds 9]

Three random LoRAs of all matrices stand for real ones: what they cost does not depend on what they say. In a
round the plain bundle, the one with adapters but none chosen, and the same with one chosen take turns, so
that a machine that slows down slows all of them. Memory is that of a process of its own (Linux).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save_file

import edgert
from edgert.bench.pace import text_tokens
from edgert.export import ExportOptions, export
from edgert.export.checkpoint import Checkpoint
from edgert.export.checkpoint.huggingface import matrix_modules
from edgert.export.checkpoint.source import open_checkpoint

NAMES = ("first", "second", "third")
PROMPT, TOKENS = 128, 48  # of each answer
MEMORY = """
import json, sys, edgert
from edgert.bench.footprint import resident
model = edgert.load(sys.argv[1], context=1024, conversations=1)
found = []
for name in (None, *sys.argv[2:]):
    model.use(name)
    model.generate(list(range(100, 612)), max_tokens=8)
    now = resident()
    found.append((now.anonymous, now.files))
print(json.dumps(found))
"""


def write_lora(folder: Path, checkpoint: Checkpoint, rank: int, seed: int) -> Path:
    """An adapter of all matrices as PEFT saves it, with random numbers."""
    rng, tensors = np.random.default_rng(seed), {}
    for module, parts in matrix_modules(checkpoint.spec).items():
        shapes = [checkpoint.tensors[name].shape for name in parts]
        rows, columns = sum(shape[0] for shape in shapes), shapes[0][1]
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = rng.standard_normal(shape, np.float32) / 100
            tensors[f"base_model.model.{module}.lora_{letter}.weight"] = values
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def token_time(model: edgert.Model) -> float:
    """Seconds per token of an answer: the 10th percentile, which other programs disturb least."""
    never_end = dict.fromkeys(model.bundle.manifest.generation.eos_token_ids, -1e6)
    prompt = text_tokens(model.tokenizer, PROMPT)
    stream = model.stream(prompt, max_tokens=TOKENS, temperature=0.0, logit_bias=never_end)
    moments = [time.perf_counter() for chunk in stream if chunk.token]
    return float(np.quantile(np.diff(moments), 0.1))


def rounds(plain: edgert.Model, adapted: edgert.Model, number: int) -> dict[str, list[float]]:
    """Times of each in turn, after one round that warms up."""
    cases = {
        "none exported": (plain, None),
        "none chosen": (adapted, None),
        "one chosen": (adapted, NAMES[0]),
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(number + 1):
        for case, (model, name) in cases.items():
            model.use(name)
            found[case].append(token_time(model))
    return {case: times[1:] for case, times in found.items()}


def show_times(found: dict[str, list[float]]) -> None:
    """Medians of the rounds, and of the ratios in each."""
    usual = next(iter(found.values()))
    print("| adapters | ms per token | times plain |\n|---|---|---|")
    for case, times in found.items():
        ratios = [one / base for one, base in zip(times, usual, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle = 1000 * statistics.median(times)
        print(f"| {case} | {middle:.1f} | {statistics.median(ratios):.2f} ({spread}) |", flush=True)


def show_memory(plain: Path, adapted: Path) -> None:
    """What is resident after each adapter has been used, one after the other."""
    print("| adapters used | anonymous, MB | files, MB |\n|---|---|---|")
    for bundle, names in ((plain, ()), (adapted, NAMES)):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(bundle), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for used, (anonymous, files) in enumerate(json.loads(done.stdout)):
            what = f"{used}" if names else "none exported"
            print(f"| {what} | {anonymous / 1e6:.1f} | {files / 1e6:.1f} |")


@click.command
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--rank", default=16, show_default=True)
@click.option("--rounds", "number", default=9, show_default=True)
def main(checkpoint: Path, rank: int, number: int) -> None:
    """Export both bundles, measure and print tables."""
    with tempfile.TemporaryDirectory() as scratch:
        place, opened = Path(scratch), open_checkpoint(checkpoint)
        loras = {name: write_lora(place / name, opened, rank, seed) for seed, name in enumerate(NAMES)}
        quick = ExportOptions(calibrate=False, verify=False)
        export(checkpoint, place / "plain", quick)
        bundle = export(checkpoint, place / "adapted", replace(quick, separate_adapters=loras))
        size = bundle.manifest.files[bundle.manifest.adapters[NAMES[0]].file].size
        print(f"{opened.origin.source}, rank {rank}: {size / 1e6:.1f} MB per adapter", flush=True)
        show_memory(place / "plain", place / "adapted")
        with (
            edgert.load(place / "plain", context=1024) as plain,
            edgert.load(place / "adapted", context=1024) as adapted,
        ):
            show_times(rounds(plain, adapted, number))


if __name__ == "__main__":
    main()
