"""`edgert tune`: what is quickest for a bundle on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from edgert.cli import completing, console
from edgert.cli.opening import open_bundle

if TYPE_CHECKING:
    from edgert.machine.tuning import Trial


@click.command(short_help="Find the fastest settings for a bundle here.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "--device",
    "names",
    multiple=True,
    shell_complete=completing.devices,
    help="Another kind of machine to try its settings, by name. May be given more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def tune(bundle: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Find the fastest settings for a bundle on this machine, and keep them. It takes about a minute.

    \b
    edgert tune                                       the default student
    edgert tune ./my-bundle
    edgert tune ./my-bundle --device integrated-gpu   whether the GPU is faster

    It measures with different numbers of threads and different lengths of the chunks in which a prompt is
    read, and on the integrated GPU, if one can be used. Leave the machine alone meanwhile.

    The winner is kept in the bundle's folder and used from then on, unless you give a --device. When the
    processor or onnxruntime changes, the machine's usual settings are used until you measure again.
    """
    from edgert import devices
    from edgert.engine import providers
    from edgert.machine.tuning import figures
    from edgert.machine.tuning import tune as measure

    opened = open_bundle(bundle)
    gpu = devices.load("integrated-gpu")
    usable = not names and providers.why_not(gpu.provider.name) is None
    others = [gpu] if usable else [devices.load(name) for name in names]
    with console.progress_bar("Measuring") as progress:
        found = measure(opened, [devices.detect().profile, *others], progress)
    if as_json:
        click.echo(json.dumps(figures(found), indent=2))
        return
    for trial in found.trials:
        click.echo(f"{'*' if trial == found.winner else ' '} {_line(trial)}")
    click.echo(found.verdict)


def _line(trial: Trial) -> str:
    how = f"{trial.device:16} {trial.threads or '?':>2} threads, chunks of {trial.prefill_chunk:3}"
    if trial.failure:
        return f"{how}  {trial.failure}"
    return f"{how}  decode {trial.decode:7.1f} tokens/s  prefill {trial.prefill:7.0f} tokens/s"
