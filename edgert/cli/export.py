"""`edgert export`: a bundle of a checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgert import home
from edgert.cli import completing, console
from edgert.cli.options import Adapters, by_name, quant_options

if TYPE_CHECKING:
    from edgert.bundle import Bundle


@click.command(short_help="Make a bundle from a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    shell_complete=completing.devices,
    help="Kind of machine it is for; `edgert devices` lists them. May be given more than once: one bundle "
    "then serves them all.",
)
@click.option(
    "--adapter",
    "adapters",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of a LoRA, a small addition to the model's weights, as PEFT saves it; it is merged into "
    "them. May be given more than once.",
)
@click.option(
    "--adapter-separate",
    "separate_adapters",
    type=Adapters(),
    callback=by_name,
    multiple=True,
    help="A LoRA that stays beside the model in the bundle, under a name to choose it by: `edgert chat "
    "--adapter NAME`. May be given more than once.",
)
@quant_options
@click.option(
    "--max-context",
    type=click.IntRange(1),
    help="Most tokens that a conversation may ever have. Default: the model's own limit, at most 32768.",
)
@click.option(
    "--via",
    type=click.Choice(["auto", "direct", "optimum"]),
    default="auto",
    help="What builds the graph: edgert itself (direct), or Optimum, which knows many more families and "
    "needs the extra [optimum]. auto: edgert where it knows the family.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there already.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the bundle's manifest, all facts about it, as JSON."
)
def export(checkpoint: Path, bundle: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle from a checkpoint.

    \b
    edgert export ./my-student ./my-bundle
    edgert export model-Q4_K_M.gguf ./my-bundle --max-context 8192
    edgert export ./my-student ./my-bundle --adapter ./my-lora
    edgert export ./my-student ./small --quant mixed --target-size 1.2GB --kv int8

    CHECKPOINT is a model as it was trained: a folder as Hugging Face writes it, a GGUF file, or a repository
    of the hub as org/name or org/name@revision, which is downloaded first. BUNDLE is the folder that will
    hold it in the form that edgert runs, usually with its weights in 8 bits.

    At the end the bundle's predictions are compared with the original's. The figures stay in the bundle, and
    `edgert info` shows them. KL divergence, in nats per token (a piece of a word), tells how far two
    predictions are apart; 0 is equal.
    """
    from edgert.bundle import CHAT_TEMPLATE

    written = make_bundle(_fetched(checkpoint), bundle, options)
    if as_json:
        click.echo(written.manifest.to_json(), nl=False)
    else:
        how = "chat" if CHAT_TEMPLATE in written.manifest.files else "generate --raw -p TEXT"
        ready = f"edgert {how} {shlex.quote(str(bundle))}"
        click.echo(f"{bundle}: {written.size / 1e6:.1f} MB, ready for: {ready}")
        for line in [*_road_lines(written), *written.manifest.fidelity_lines()]:
            click.echo(line)


def _fetched(checkpoint: Path) -> Path:
    """The checkpoint itself, or what is pulled where it names a repository of the hub and nothing here.

    Raises PullError, MissingExtra.
    """
    name = checkpoint.as_posix()
    if Path(checkpoint.parts[0] if checkpoint.parts else ".").exists() or not home.is_hub_name(name):
        return checkpoint
    from edgert.export import catalog, pull

    click.echo(f"{name} is nothing on this disk: pulling it from the hub …", err=True)
    return pull.pull(catalog.find(name), home.checkpoint_folder(name))


def _road_lines(written: Bundle) -> list[str]:
    """Which road the bundle came by; of Optimum's, what each pass over its graph did."""
    from edgert.export.optimum_road.report import read_reports

    reports = read_reports(written)
    road = "optimum" if reports else "direct"
    return [f"{'via':12}{road}", *(f"{'':12}{line}" for report in reports for line in report.lines())]


def make_bundle(checkpoint: Path, bundle: Path, options: dict[str, Any]) -> Bundle:
    """Export with a progress bar; `options` are the fields of ExportOptions that were given."""
    from edgert import export as exporter

    with console.phase_bar() as progress:
        return exporter.export(checkpoint, bundle, exporter.ExportOptions(**options), progress)
