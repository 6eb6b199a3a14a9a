"""Commands that make bundles: export, pull."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgert import home
from edgert.cli import console
from edgert.cli.options import quant_options
from edgert.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edgert.bundle import Bundle, Manifest


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


@click.command(short_help="Obtain a known student, ready to chat.")
@click.argument("name", default=home.DEFAULT_MODEL)
@click.option("--list", "show", is_flag=True, help="List the models that can be pulled.")
@click.option("--quant", type=click.Choice(["int8", "int4", "fp32"]), default="int8", show_default=True)
@click.option("--device", help="Profile of the machine it is for; the default is this one.")
@click.option("--force", is_flag=True, help="Export again, even if the bundle is there.")
def pull(*, name: str, show: bool, quant: str, device: str | None, force: bool) -> None:
    """Obtain a student of the catalog and export it, so that `edgert chat NAME` works."""
    from edgert.export import catalog

    if show:
        for entry in catalog.CATALOG:
            click.echo(f"{entry.name:24} {entry.parameters:>6} M  {entry.license:12} {entry.source}")
        return
    click.echo(f"{pull_bundle(name, quant, device, force)} is ready: edgert chat {name}")


def pull_bundle(name: str, quant: str = "int8", device: str | None = None, force: bool = False) -> Path:
    """The bundle of a catalog entry, made if it isn't there. Raises UsageError if another one is."""
    from edgert import devices
    from edgert import export as exporter
    from edgert.export import catalog
    from edgert.export import pull as pulling

    entry = catalog.find(name)
    wanted = device or devices.detect().profile.name
    folder = home.bundle_folder(name)
    if folder.exists() and not force and (made := _intact(folder)):
        if quant != made.quantization.scheme or device not in (None, *made.devices):
            kind = f"{made.quantization.scheme} for {', '.join(made.devices)}"
            raise UsageError(f"{name} is there already as {kind}: --force replaces it")
        return folder
    exporter.require_extra()  # before a download that would be of no use without it
    click.echo(f"Pulling {name} ({entry.license}) from {entry.source} …", err=True)
    checkpoint = pulling.pull(entry, home.checkpoint_folder(name))
    click.echo(f"Exporting {checkpoint} to {folder} …", err=True)
    make_bundle(checkpoint, folder, {"quant": quant, "devices": (wanted,), "name": name, "force": True})
    return folder


def _intact(folder: Path) -> Manifest | None:
    """The manifest of a pulled bundle; None, and a line that says so, if it can't be used as it is."""
    from edgert.bundle import open_bundle
    from edgert.engine.prepared import check_replaced

    try:
        bundle = open_bundle(folder)
        bundle.check_hashes()
        check_replaced(bundle)
        return bundle.manifest
    except BundleError as error:
        click.echo(f"{error}: doing so", err=True)
        return None
