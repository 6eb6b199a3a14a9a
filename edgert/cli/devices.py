"""`edgert devices`: the device profiles, and the one detected here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.opening import open_bundle
from edgert.errors import EdgertError

if TYPE_CHECKING:
    from edgert.bundle import Bundle


@click.command(short_help="List kinds of machines, and which this one is.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything known of machine and profiles as JSON."
)
def devices(bundle: str | None, as_json: bool) -> None:
    """List the device profiles, and the one detected for this machine, with the reason.

    \b
    edgert devices
    edgert devices ./my-bundle     with what `edgert tune` found for it

    A device profile is what edgert knows of a kind of machine: which form of weights is fast on it, how many
    threads, how much context. Other commands take its name as --device. Without a BUNDLE, what `edgert tune`
    found for the default student is shown, if there is any.
    """
    from edgert.devices import detect, load, names
    from edgert.machine.tuning import Tuning, figures

    found = detect()
    profiles = [load(name) for name in names()]
    opened = _bundle_if_any(bundle)
    tuning = Tuning.read(opened) if opened else None
    if as_json:
        hardware = {**asdict(found.hardware), "features": sorted(found.hardware.features)}
        table = {
            "detected": found.profile.name,
            "reason": found.reason,
            "hardware": hardware,
            "tuned": figures(tuning) if tuning else None,
            "profiles": [asdict(profile) for profile in profiles],
        }
        click.echo(json.dumps(table, indent=2))
        return
    for profile in profiles:
        mark = "*" if profile.name == found.profile.name else " "
        click.echo(f"{mark} {profile.name:24} {profile.title}")
    click.echo(f"* detected: {found.reason}\n  {found.hardware}")
    if opened:
        verdict = tuning.verdict if tuning else "not tuned yet: `edgert tune` measures"
        click.echo(f"  {opened.manifest.name}: {verdict}")


def _bundle_if_any(name: str | None) -> Bundle | None:
    """The bundle asked for; the default student, if it is there."""
    if name:
        return open_bundle(name)
    try:
        return open_bundle(home.DEFAULT_MODEL) if home.bundle_folder(home.DEFAULT_MODEL).exists() else None
    except EdgertError as error:
        click.echo(f"edgert: warning: {error}", err=True)
        return None
