"""From the bundle that a command was given to a model; the default student is offered where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import console
from edgert.cli.pull import pull_bundle
from edgert.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edgert.bundle import Bundle
    from edgert.model import Model


def find_bundle(name: str | None) -> Path:
    """The folder of the bundle that was named, or of the default student. It may not be a bundle.

    Raises UsageError if the default student is missing, BundleError for a known student that was not pulled.
    """
    if name is None:
        return default_bundle()
    folder = home.find_bundle(name)
    if not folder.exists() and _is_in_catalog(name):
        raise BundleError(f"{name} is not in {home.home()} yet; get it with: edgert pull {name}")
    return folder


def open_bundle(name: str | None) -> Bundle:
    """The bundle that was named, or the default student. Raises BundleError, UsageError."""
    from edgert import bundle

    return bundle.open_bundle(find_bundle(name))


def load_model(
    bundle: str | None,
    device: str | None,
    context: int | None,
    kv: str | None = None,
    *,
    force: bool = False,
    adapter: str | None = None,
) -> Model:
    """The model in a bundle, or the default student if none was named. Raises what `edgert.load` raises."""
    from edgert.model import load

    model = load(find_bundle(bundle), device, context, kv, conversations=1, force=force)
    if adapter is not None:
        model.use(adapter)
    return model


def default_bundle() -> Path:
    """The default student; if it is missing, say so and offer to get it."""
    folder = home.bundle_folder(home.DEFAULT_MODEL)
    if folder.exists():
        return folder
    click.echo(f"The default student, {home.DEFAULT_MODEL}, is not in {home.home()} yet.", err=True)
    if not console.on_terminal():
        raise UsageError(f"get it with: edgert pull {home.DEFAULT_MODEL}")
    if not click.confirm("Get it now (93 MB download, 149 MB bundle)?", default=True, err=True):
        raise UsageError("nothing to chat with: name a bundle, as in: edgert chat BUNDLE")
    return pull_bundle(home.DEFAULT_MODEL)


def _is_in_catalog(name: str) -> bool:
    from edgert.export import catalog

    return name in [entry.name for entry in catalog.CATALOG]
