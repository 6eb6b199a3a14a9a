"""`edgert batch`: a file of prompts to a file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from edgert.cli import completing, console
from edgert.cli.opening import answering, find_bundle, own_settings
from edgert.cli.options import adapter_option, form, form_options, kv_option, model_options, sampling_options
from edgert.errors import LinesFailed

if TYPE_CHECKING:
    from edgert.batch.job import Answering, Job, Tally

STOPPED = 130  # as shells report Ctrl-C


@click.command(short_help="Answer a file of prompts.")
@click.argument("prompts", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--bundle",
    shell_complete=completing.bundles,
    help="The bundle that answers, a folder or a name of `edgert list`. Default: the default student.",
)
@click.option(
    "--conversations",
    type=click.IntRange(1),
    help="How many prompts are answered at a time. Default: up to 8, as memory allows.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Answer on all nodes of the Ray cluster at this address, such as 10.0.0.1:6379. Each needs the "
    "bundle in the same folder. Needs the [ray] extra.",
)
@model_options
@kv_option
@adapter_option
@click.option(
    "--thinking/--no-thinking",
    default=None,
    help="Whether a student that can think first does. Default: as its chat template has it.",
)
@form_options
@sampling_options
def batch(
    *,
    prompts: Path,
    out: Path,
    bundle: str | None,
    conversations: int | None,
    ray: str | None,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    adapter: str | None,
    force: bool,
    json_schema: IO[bytes] | None,
    regex: str | None,
    grammar: IO[bytes] | None,
    **sampling: Any,
) -> None:
    """Answer each line of the file PROMPTS, several at a time, and write the answers to OUT in their order.

    \b
    edgert batch questions.txt answers.jsonl --max-tokens 200
    edgert batch requests.jsonl results.jsonl --bundle ./my-bundle --temperature 0
    edgert batch requests.jsonl results.jsonl --ray 10.0.0.1:6379

    PROMPTS has one prompt per line, or JSON lines: {"prompt": TEXT} or {"messages": [...]}, with an "id" and
    options of their own ("max_tokens", "temperature", "seed", "stop" and the like) if you wish, or OpenAI's
    batch format ("custom_id", "body"), whose results have OpenAI's format, too. Their "model" is not looked
    at. All lines are checked before the first is answered. Lengths are in tokens (pieces of words).

    Answers are kept in OUT.partial until OUT is complete. After Ctrl-C, a crash or a power failure, the same
    command goes on there: no line is answered twice. A line that can't be answered, such as one that is
    longer than the context, has an error in its place; the exit code is then 12.
    """
    from edgert.batch.cluster import Cluster
    from edgert.batch.job import Job
    from edgert.batch.local import Local
    from edgert.batch.setup import Setup

    options = answering(bundle, {**sampling, **form(json_schema, regex, grammar)})
    own, folder = own_settings(bundle), str(find_bundle(bundle).absolute())
    threads, context = threads or own.threads, context or own.context
    setup = Setup(folder, device or own.device, context, kv, threads, conversations, force, adapter)
    job = Job.read(prompts, out, setup, options)
    if ray is not None:
        _run(job, Cluster(ray, setup))
        return
    with setup.open() as model:
        _run(job, Local(model))


def _run(job: Job, answering: Answering) -> None:
    """Answer with a bar, and say how it ended."""
    from edgert.batch.job import Tally

    tally = Tally(len(job.lines))
    try:
        with console.line_bar("Answering") as progress:
            failed = job.run(answering, tally, lambda now: progress(now.done, now.left, _pace(now)))
    except BaseException as error:
        if kept := tally.before + tally.done:
            told = (
                f"{kept} of {tally.lines} answers are kept in {job.files.journal}; the same command goes on"
            )
            click.echo(told, err=True)
        if isinstance(error, KeyboardInterrupt):
            raise click.exceptions.Exit(STOPPED) from error
        raise
    click.echo(f"{job.files.out}: {_summary(tally)}", err=True)
    if failed:
        raise LinesFailed(
            f"{failed} of {tally.lines} lines have an error in place of an answer, see {job.files.out}"
        )


def _pace(tally: Tally) -> str:
    return f"{tally.tokens_per_s:.0f} tokens/s"


def _summary(tally: Tally) -> str:
    before = f", {tally.before} of them by earlier runs" if tally.before else ""
    return f"{tally.lines} lines{before}; {tally.tokens} tokens in {tally.seconds:.1f} s, {_pace(tally)}"
