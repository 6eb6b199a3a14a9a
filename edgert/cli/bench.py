"""`edgert bench`: how fast a bundle is on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgert.cli import completing, console
from edgert.cli.opening import find_bundle, own_settings
from edgert.cli.options import kv_option, model_options

if TYPE_CHECKING:
    from edgert.bench.figures import Against, AtDepth, Bench, Figure


class Depths(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Whole numbers separated by commas."""

    name = "depths"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is no list of depths: write it as 0,512,2048", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(short_help="Measure how fast a bundle is here.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "--runs", type=click.IntRange(1), default=5, show_default=True, help="How often everything is measured."
)
@click.option(
    "--depths",
    type=Depths(),
    default="0,512,2048",
    show_default=True,
    help="Tokens before the answer at which decoding is measured.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="NAME=PATH",
    help="Take turns with llama.cpp=MODEL.gguf or edgert=BUNDLE. May be given more than once.",
)
@click.option(
    "--plot",
    metavar="FILE.png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the time per token by depth, up to the context, as PNG or SVG.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as JSON, with the figures of every round."
)
@kv_option
@model_options
def bench(
    *,
    bundle: str | None,
    runs: int,
    depths: tuple[int, ...],
    against: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    force: bool,
) -> None:
    """Measure how fast a bundle is on this machine, and what it takes in memory and energy.

    \b
    edgert bench                                               the default student
    edgert bench ./my-bundle --runs 9 --json > figures.json    every round's figures
    edgert bench ./my-bundle --against llama.cpp=model.gguf    llama.cpp in turn, with ratios
    edgert bench ./new --against edgert=./old                  two bundles
    edgert bench ./my-bundle --context 8192 --plot depth.png   how the time per token grows

    Prefill is reading the prompt; decoding is writing the answer, token by token (pieces of words). Decoding
    slows down with depth, the number of tokens before. Figures are medians over the rounds, with the lowest
    and the highest. Leave the machine alone meanwhile.

    Each token takes all weights and the whole cache of earlier tokens from memory. So decoding is compared
    with how fast this machine reads memory, measured in the same rounds: at 100 % it can't be faster, unless
    the processor's own caches hold part of the weights.

    llama.cpp is run by its llama-bench, from the PATH or from LLAMA_BENCH, with the same threads, prompt and
    depths, with flash attention and without; the faster of the two counts. A plot needs the [plot] extra.
    """
    from edgert.bench import peers
    from edgert.bench import plot as bench_plot
    from edgert.bench.footprint import Opening
    from edgert.bench.measure import Wanted, measure

    if plot:
        bench_plot.check(plot)
    rivals = [peers.parse(text) for text in against]
    folder = find_bundle(bundle)
    own = own_settings(bundle)
    opening = Opening(
        str(folder), device or own.device, context or own.context, kv, force, threads or own.threads
    )
    with console.progress_bar("Measuring") as progress:
        found = measure(opening, Wanted(depths, runs, rivals, curve=plot is not None), progress)
    if plot:
        bench_plot.save(found, plot)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(found)))
        if plot:
            click.echo(f"{'plot':18}{plot}")


def _lines(found: Bench) -> Iterator[str]:
    where = f"{found.bundle} on {found.device}: {found.graph}, {found.threads or 'all'} threads"
    runs = len(found.prefill.rounds)
    yield f"{where}, context {found.context}; {runs} round{'s' * (runs > 1)}, median (lowest to highest)\n"
    yield _row("load", _figure(found.load, ".2f", "s"))
    yield _row("prefill", _figure(found.prefill, ".0f", "tokens/s"), f"{found.prompt} tokens")
    yield _row("first token", _figure(found.first_token, ".2f", "s"), f"after {found.prompt} tokens")
    for at in found.depths:
        yield _row(f"decode at {at.depth}", _figure(at.decode, ".1f", "tokens/s"), _reached(at))
    for depth in found.skipped:
        needed = f"needs {depth + found.steps} tokens, the context holds {found.context}"
        yield _row(f"decode at {depth}", f"not measured: {needed}")
    yield _row("this machine reads", _figure(found.bandwidth, ".1f", "GB/s"))
    yield from _other_lines(found)
    for peer in found.against:
        yield ""
        yield from _peer_lines(peer)
    if found.curve:
        line = f"{found.curve.start:.2f} ms + {found.curve.slope:.3f} ms per 1,000 tokens before"
        yield _row("\ntime per token", f"{line}, R² {found.curve.r2:.3f}")


def _other_lines(found: Bench) -> Iterator[str]:
    greedy, sampled = found.drawing.greedy.median, found.drawing.sampled.median
    yield _row("choosing a token", f"{greedy:.1%} of a step, {sampled:.1%} at temperature 0.6 and top-p 0.95")
    if memory := found.memory:
        yield _row(
            "memory",
            f"{_mb(memory.anonymous)} of its own, {_mb(memory.files)} of files, peak {_mb(memory.peak)}",
        )
    else:
        yield _row("memory", "this system does not tell what is of files")
    if found.no_energy:
        yield _row("energy", found.no_energy)


def _reached(at: AtDepth) -> str:
    energy = f", {at.joules.median:.3f} J per token" if at.joules else ""
    return f"{at.reached.median:.1f} GB/s, {at.share.median:.0%} of what it reads{energy}"


def _peer_lines(peer: Against) -> Iterator[str]:
    yield f"against {peer.name} {peer.path}: its speed, and edgert's as a multiple"
    ratio = _figure(peer.prefill_ratio, ".2f", "×")
    yield _row("prefill", _figure(peer.prefill, ".0f", "tokens/s"), ratio)
    for at in peer.depths:
        yield _row(
            f"decode at {at.depth}", _figure(at.decode, ".1f", "tokens/s"), _figure(at.ratio, ".2f", "×")
        )


def _row(label: str, text: str, more: str = "") -> str:
    return f"{label:20}{text:38}{more}".rstrip()


def _figure(figure: Figure, digits: str, unit: str) -> str:
    low, high = format(figure.lowest, digits), format(figure.highest, digits)
    return f"{format(figure.median, digits):>7} {unit:8} ({low} to {high})"


def _mb(figure: Figure) -> str:
    return f"{figure.median / 1e6:,.0f} MB"
