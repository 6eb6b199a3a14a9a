"""Commands that look at the machine: devices, doctor, tune."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import console
from edgert.cli.opening import default_bundle
from edgert.errors import BundleError, EdgertError

if TYPE_CHECKING:
    from edgert.bundle import Bundle
    from edgert.machine.tuning import Trial

MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command(name="devices", short_help="List device profiles and the one detected.")
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print profiles, features and figures as JSON.")
def list_devices(bundle: str | None, as_json: bool) -> None:
    """List the device profiles and the one detected on this machine, with the reason.

    With a BUNDLE, or if the default student is there, what `edgert tune` found for it, too.
    """
    from edgert import devices
    from edgert.machine.tuning import Tuning, figures

    found = devices.detect()
    profiles = [devices.load(name) for name in devices.names()]
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
    from edgert.bundle import open_bundle

    if name:
        return open_bundle(home.find_bundle(name))
    folder = home.bundle_folder(home.DEFAULT_MODEL)
    try:
        return open_bundle(folder) if folder.exists() else None
    except EdgertError as error:
        click.echo(f"edgert: warning: {error}", err=True)
        return None


@click.command(short_help="Check that this machine can run a bundle, and computes right.")
@click.argument("bundle", required=False)
@click.option("--device", help="Device profile to test, by name or as a .toml file.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(context: click.Context, bundle: str | None, device: str | None, as_json: bool) -> None:
    """Look at machine, providers, heat and memory; with a BUNDLE also at its files and answers.

    It replays the golden prompts that an export left in the bundle. The exit code is 1 if anything is bad.
    """
    from edgert import devices
    from edgert.bundle import open_bundle
    from edgert.machine.doctor import Finding, examine

    findings, opened, broken = [], None, []
    try:
        opened = open_bundle(home.find_bundle(bundle)) if bundle else None
    except BundleError as error:
        broken = [Finding("files", "bad", str(error))]
    for finding in chain(examine(opened, devices.load(device) if device else None), broken):
        findings.append(finding)
        if not as_json:
            click.echo(f"{MARKS[finding.verdict]}  {finding.subject:22} {finding.text}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    if any(finding.verdict == "bad" for finding in findings):
        context.exit(EdgertError.exit_code)


@click.command(short_help="Measure what is quickest for a bundle on this machine.")
@click.argument("bundle", required=False)
@click.option("--device", "names", multiple=True, help="Devices to try besides the detected one; may repeat.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def tune(bundle: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Measure for a minute: threads, an integrated GPU where one is usable, lengths of prefill chunks.

    The winner is kept beside the bundle and used from then on, until processor or onnxruntime change;
    --device at other commands overrides it. Leave the machine alone meanwhile.
    """
    from edgert import devices
    from edgert.bundle import open_bundle
    from edgert.engine import providers
    from edgert.machine.tuning import figures
    from edgert.machine.tuning import tune as measure

    opened = open_bundle(home.find_bundle(bundle) if bundle else default_bundle())
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
