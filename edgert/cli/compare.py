"""`edgert compare`: where the answers of two bundles part."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgert.cli import completing, console
from edgert.cli.opening import load_model, open_bundle
from edgert.cli.options import model_options
from edgert.errors import UsageError

if TYPE_CHECKING:
    from edgert.compare.comparison import Comparison, Pair, Summary
    from edgert.text.prompts import Question


@click.command(short_help="Compare the answers of two bundles.")
@click.argument("bundle", shell_complete=completing.bundles)
@click.argument("reference", shell_complete=completing.bundles)
@click.option(
    "--prompts", "source", metavar="FILE", help="File of your own prompts. '-' reads standard input."
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Longest answer, in tokens."
)
@click.option("--json", "as_json", is_flag=True, help="Print answers, tokens and figures as JSON.")
@click.option(
    "--page",
    metavar="FILE.html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a page that shows the answers side by side.",
)
@model_options
def compare(
    *,
    bundle: str,
    reference: str,
    source: str | None,
    max_tokens: int,
    as_json: bool,
    page: Path | None,
    device: str | None,
    context: int | None,
    threads: int | None,
    force: bool,
) -> None:
    """Give two bundles the same prompts, and show where their answers part and how far apart they are.

    \b
    edgert compare ./student-int8 ./student-fp32                what int8 costs
    edgert compare ./today ./last-month --prompts mine.txt      what an export changed
    edgert compare A B --max-tokens 2000 --page compared.html   R1 students need room to think

    REFERENCE is the bundle that BUNDLE is measured against. Both are in memory at once. At every token (a
    piece of a word) each takes the likeliest one, so that chance plays no part.

    KL divergence, in nats, tells how far BUNDLE's predictions are from REFERENCE's at each token of
    REFERENCE's answer: 0 is equal, int8 is usually near 0.005. top-1 is how often both find the same token
    the likeliest. Final answers are what follows </think>; of two with a \\boxed{} only its content counts;
    if an answer was cut off, they are undecided.

    A FILE has one prompt per line, or JSON lines with {"prompt": TEXT} or {"messages": [...]}; an answer at
    the end of the messages is left out. Without a file, a dozen built-in questions are asked.
    """
    from edgert.compare import page as comparison_page
    from edgert.compare.measure import compare

    if page and not page.parent.is_dir():
        raise UsageError(f"can't save to {page}: there is no folder {page.parent}; make it first")
    for name in (bundle, reference):
        open_bundle(name)  # a wrong name is said before standard input is read
    asked = _questions(source)
    ours, theirs = (
        load_model(name, device, context, threads=threads, force=force) for name in (bundle, reference)
    )
    with console.progress_bar("Comparing") as progress:
        found = compare(ours, theirs, asked, max_tokens, progress)
    if page:
        comparison_page.save(found, page)
    if as_json:
        click.echo(json.dumps(found.table(), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(_lines(found)))
        click.echo(f"{'side by side':21}{page or 'with --page FILE.html'}")


def _questions(source: str | None) -> list[Question]:
    from edgert.text import prompts

    if source is None:
        return list(prompts.BUILT_IN)
    if source == "-":
        return prompts.parse(console.piped_prompt(), "standard input")
    return prompts.read(Path(source))


def _lines(found: Comparison) -> Iterator[str]:
    yield f"{found.bundle}\nagainst {found.reference}; greedy, at most {found.max_tokens} tokens\n"
    for number, pair in enumerate(found.pairs, 1):
        yield f"{number:3}  {textwrap.shorten(pair.title, 100, placeholder=' …')}"
        yield from (f"     {line}" for line in _pair_lines(pair))
    yield ""
    yield from (f"{name:21}{value}" for name, value in _summary_rows(found.summary))


def _summary_rows(summary: Summary) -> Iterator[tuple[str, str]]:
    cut = f", {summary.cut} cut off: --max-tokens gives room" if summary.cut else ""
    yield "prompts", f"{summary.prompts}{cut}"
    yield "identical answers", f"{summary.identical} of {summary.prompts}"
    yield "equal final answers", ", ".join(_final_counts(summary))
    if summary.mean_fork is not None:
        yield "first difference", f"after {summary.mean_fork:.1f} equal tokens on average"
    yield "mean KL", f"{summary.mean_kl:.4f} nats per token"
    yield "top-1 agreement", f"{summary.top1:.1%}"
    if summary.other_prompts:
        yield (
            "chat templates",
            f"differ: other tokens for {summary.other_prompts} of {summary.prompts} prompts",
        )


def _final_counts(summary: Summary) -> Iterator[str]:
    yield f"{summary.equal_finals} of {summary.prompts}"
    if summary.different_finals:
        yield f"{summary.different_finals} different"
    if summary.undecided_finals:
        yield f"{summary.undecided_finals} undecided (cut off)"
    if summary.missing_finals:
        yield f"{summary.missing_finals} missing (ended while thinking)"


def _pair_lines(pair: Pair) -> Iterator[str]:
    from edgert.compare.comparison import VERDICTS

    if fork := pair.fork:
        ours, theirs = fork.bundle, fork.reference
        yield (
            f"parts after {fork.index} equal tokens: bundle {ours} {ours.probability:.0%} "
            f"({fork.alternative:.0%} by the reference), reference {theirs} {theirs.probability:.0%}"
        )
    else:
        yield f"the same {len(pair.reference.token_ids)} tokens"
    worst = f"largest {pair.kl[pair.worst]:.4f} at token {pair.worst + 1}"
    yield f"KL {pair.mean_kl:.4f}, {worst}; top-1 {pair.top1:.1%}; final answers {VERDICTS[pair.finals]}"
