"""`edgert export`: a bundle of a checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgert.cli import console
from edgert.cli.options import quant_options

if TYPE_CHECKING:
    from edgert.bundle import Bundle


@click.command(short_help="Make a bundle of a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="Profile of the machine it is for; see `edgert devices`. Several share one set of weights.",
)
@quant_options
@click.option("--max-context", type=click.IntRange(1), help="Longest context the bundle can hold, in tokens.")
@click.option(
    "--via",
    type=click.Choice(["auto", "direct", "optimum"]),
    default="auto",
    help="Builder; optimum is to come.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def export(checkpoint: Path, bundle: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle of a Hugging Face folder or a GGUF file.

    \b
    edgert export ./my-student ./my-student-int8
    edgert export model-Q4_K_M.gguf ./bundle --max-context 8192
    edgert export ./my-student ./small --quant mixed --target-size 1.2GB --kv int8

    At the end the bundle's predictions are compared with the original's in fp32, on a text it was not
    calibrated on; `edgert info` shows what that gave.
    """
    from edgert.bundle import CHAT_TEMPLATE

    written = make_bundle(checkpoint, bundle, options)
    if as_json:
        click.echo(written.manifest.to_json(), nl=False)
    else:
        how = "chat" if CHAT_TEMPLATE in written.manifest.files else "generate --raw -p TEXT"
        ready = f"edgert {how} {shlex.quote(str(bundle))}"
        click.echo(f"{bundle}: {written.size / 1e6:.1f} MB, ready for: {ready}")
        for line in written.manifest.fidelity_lines():
            click.echo(line)


def make_bundle(checkpoint: Path, bundle: Path, options: dict[str, Any]) -> Bundle:
    """Export with a progress bar; `options` are the fields of ExportOptions that were given."""
    from edgert import export as exporter

    with console.phase_bar() as progress:
        return exporter.export(checkpoint, bundle, exporter.ExportOptions(**options), progress)
