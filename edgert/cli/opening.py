"""From the bundle a command was given to a model; the default student is offered where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import console
from edgert.cli.pull import pull_bundle
from edgert.errors import UsageError

if TYPE_CHECKING:
    from edgert.model import Model


def load_model(
    bundle: str | None,
    device: str | None,
    context: int | None,
    kv: str | None = None,
    *,
    force: bool = False,
) -> Model:
    """The model in a bundle, or the default student if none was named."""
    from edgert.model import load

    folder = home.find_bundle(bundle) if bundle else default_bundle()
    return load(folder, device, context, kv, force=force)


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
