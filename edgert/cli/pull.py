"""`edgert pull`: a student of the catalog, ready to chat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.export import make_bundle
from edgert.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edgert.bundle import Manifest
    from edgert.export.catalog import Entry


@click.command(short_help="Get a known student, ready to chat.")
@click.argument("name", default=home.DEFAULT_MODEL, shell_complete=completing.students)
@click.option(
    "--list",
    "show",
    is_flag=True,
    help="List the names: parameters, download size, licence, source, and what is here already.",
)
@click.option(
    "--quant",
    type=click.Choice(["int8", "int4", "fp32"]),
    default="int8",
    show_default=True,
    help="How weights are stored; see `edgert export --help`.",
)
@click.option(
    "--device",
    shell_complete=completing.devices,
    help="Kind of machine it is for; `edgert devices` lists them. Default: this one.",
)
@click.option("--force", is_flag=True, help="Export it again, even if it is there.")
def pull(*, name: str, show: bool, quant: str, device: str | None, force: bool) -> None:
    """Download a known student and export it, so that `edgert chat NAME` works.

    \b
    edgert pull                       the default student
    edgert pull --list                all names
    edgert pull qwen3-0.6b --quant int4
    edgert pull HuggingFaceTB/SmolLM2-360M-Instruct    any repository of the hub
    edgert pull org/name@v1.0                          a branch, tag or commit of it

    A student is a small model that learned from large ones. Students from the Hugging Face hub need the [hub]
    extra. After a download that broke off, whole files are kept and only the others are downloaded. All are
    kept in the user's cache folder, or in EDGERT_HOME.
    """
    from edgert.export import catalog

    if show:
        click.echo("\n".join(map(_line, catalog.CATALOG)))
        return
    click.echo(f"{pull_bundle(name, quant, device, force)} is ready: edgert chat {name}")


def _line(entry: Entry) -> str:
    """An entry of the catalog in a line."""
    download = f"about {entry.download / 1e6:,.0f} MB" if entry.download else ""
    here = [
        what
        for what, folder in (
            ("bundle", home.bundle_folder(entry.name)),
            ("checkpoint", home.checkpoint_folder(entry.name)),
        )
        if folder.is_dir()
    ]
    facts = f"{entry.name:24} {entry.parameters:>6} M  {download:15}  {entry.license:12} {entry.source}"
    return f"{facts}; here: {' and '.join(here)}" if here else facts


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
    licence = f" ({entry.license})" if entry.license else ""
    click.echo(f"Pulling {name}{licence} from {entry.source} …", err=True)
    checkpoint = pulling.pull(entry, home.checkpoint_folder(name))
    click.echo(f"Exporting {checkpoint} to {folder} …", err=True)
    options = {"quant": quant, "devices": (wanted,), "name": name, "force": True}
    make_bundle(checkpoint, folder, {**options, "repetition_penalty": entry.repetition_penalty})
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
