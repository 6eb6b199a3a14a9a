"""Speed against llama.cpp and onnxruntime-genai on the default student, in one run.

    python benchmarks/compare.py [--rounds 5] [--json]

Each engine is a process of its own; they take turns, round by round, so that a machine that slows down
slows all of them. Quote the ratios: absolute figures drift by a fifth from run to run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import peers
from prose import prose

from edgert import devices, home

PROMPT, DECODE = 512, 128
BARS = {"llama.cpp Q8_0": 0.95, "onnxruntime-genai": 1.4}  # what the project promises of decoding


@dataclass(frozen=True)
class Speed:
    """Tokens per second: a prompt of 512 tokens, and 128 more after it."""

    prefill: float
    decode: float


def run_edgert(bundle: Path) -> Speed:
    """Through the public API: sampling, detokenizing and stop handling included."""
    import edgert

    model = edgert.load(bundle)
    model.generate(model.tokenizer.encode("Warm up."), max_tokens=8)
    prompt = model.tokenizer.encode(prose())[:PROMPT]
    timings = model.generate(prompt, max_tokens=DECODE, temperature=0.0).timings
    return Speed(timings.prefill_tokens_per_s, timings.decode_tokens_per_s)


def run_genai(bundle: Path) -> Speed:
    """onnxruntime-genai's own loop on the same bundle, as its users would run it."""
    import onnxruntime_genai as og

    model = og.Model(str(bundle))
    prompt = list(og.Tokenizer(model).encode(prose()))[:PROMPT]
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=PROMPT + DECODE, do_sample=False)
    generator = og.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    first = time.perf_counter()
    steps = 0
    while not generator.is_done():
        generator.generate_next_token()
        steps += 1
    return Speed(PROMPT / (first - start), steps / (time.perf_counter() - first))


def run_llama_cpp(model: Path) -> Speed:
    """llama-bench with as many threads as edgert takes."""
    threads = devices.physical_threads().count
    bench = [peers.llama_cpp() / "llama-bench", "-m", model, "-t", threads, "-o", "json", "-r", "1"]

    def speed(*arguments: object) -> float:
        command = [str(word) for word in (*bench, *arguments)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(json.loads(output)[0]["avg_ts"])

    return Speed(speed("-p", PROMPT, "-n", 0), speed("-p", 0, "-n", DECODE, "-d", PROMPT))


ENGINES = {"edgert": run_edgert, "llama.cpp Q8_0": run_llama_cpp, "onnxruntime-genai": run_genai}


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Rounds that count, after one that does not.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--one", nargs=2, hidden=True, help="Run one engine on one model, in this process.")
def main(rounds: int, as_json: bool, one: tuple[str, str] | None) -> None:
    """Compare decoding and prefill speed on the default student."""
    if one:
        click.echo(json.dumps(asdict(ENGINES[one[0]](Path(one[1])))))
        return
    results = measure(rounds)
    if as_json:
        click.echo(json.dumps({name: [asdict(s) for s in speeds] for name, speeds in results.items()}))
    else:
        click.echo(table(results))


def measure(rounds: int) -> dict[str, list[Speed]]:
    """Every engine in turn, `rounds` times after a warm-up."""
    models = {"llama.cpp Q8_0": peers.q8_0(student())}
    results: dict[str, list[Speed]] = {name: [] for name in ENGINES}
    total = (rounds + 1) * len(ENGINES)
    with click.progressbar(length=total, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for number in range(rounds + 1):
            for name, speeds in results.items():
                model = models.get(name, home.bundle_folder(home.DEFAULT_MODEL))
                command = [sys.executable, __file__, "--one", name, str(model)]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                if number:
                    speeds.append(Speed(**json.loads(output)))
                bar.update(1)
    return results


def student() -> Path:
    """The default student's GGUF; pulled, and its bundle exported, if they are not there."""
    subprocess.run([sys.executable, "-m", "edgert", "pull"], stdout=sys.stderr, check=True)
    return next(home.checkpoint_folder(home.DEFAULT_MODEL).glob("*.gguf"))


def table(results: dict[str, list[Speed]]) -> str:
    """Medians, and the median of the rounds' ratios, with its range."""
    lines = [
        f"| engine | prefill {PROMPT} tokens/s | decode at {PROMPT}, tokens/s | edgert decodes | bar |",
        "|---|---|---|---|---|",
    ]
    for name, speeds in results.items():
        prefill, decode = (
            statistics.median(getattr(s, kind) for s in speeds) for kind in ("prefill", "decode")
        )
        ratios = sorted(e.decode / s.decode for e, s in zip(results["edgert"], speeds, strict=True))
        ratio = f"{statistics.median(ratios):.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        bar = f"≥ {BARS[name]} ×" if name in BARS else ""
        lines.append(f"| {name} | {prefill:.0f} | {decode:.1f} | {ratio if bar else ''} | {bar} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
