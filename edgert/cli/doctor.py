"""`edgert doctor`: whether this machine can run a bundle, and computes right."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.opening import open_bundle, own_settings
from edgert.errors import BundleError, EdgertError, UsageError

if TYPE_CHECKING:
    from edgert.bundle import Bundle

MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command(short_help="Check this machine, and a bundle on it.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "--device",
    shell_complete=completing.devices,
    help="Kind of machine to check for, one that `edgert devices` lists or a .toml file. Default: detected.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(context: click.Context, bundle: str | None, device: str | None, as_json: bool) -> None:
    """Check whether this machine can run edgert: processor, memory, heat, and providers.

    \b
    edgert doctor
    edgert doctor ./my-bundle
    edgert doctor ./my-bundle --device integrated-gpu

    Providers are the parts of onnxruntime that compute, each on one kind of chip.

    With a BUNDLE also: whether its files are undamaged, whether it fits into memory, and whether this machine
    computes its predictions as they were at the export. The exit code is 1 if anything is bad.
    """
    from edgert import devices
    from edgert.machine.doctor import Finding, examine, reason

    opened: Bundle | None = None
    others: list[Finding] = []
    try:
        own = own_settings(bundle)
        device = device or own.device
        others += [Finding("settings", "ok", f"{own}; of {home.config_file()}")] if own.values else []
    except UsageError as error:
        others += [Finding("settings", "bad", str(error))]
    profile = devices.load(device) if device else None
    try:
        opened = open_bundle(bundle) if bundle else None
    except (BundleError, OSError) as error:
        others += [Finding("files", "bad", reason(error))]
    findings: list[Finding] = []
    try:
        for finding in chain(examine(opened, profile), others):
            findings.append(finding)
            if not as_json:
                click.echo(f"{MARKS[finding.verdict]}  {finding.subject:22} {finding.text}")
    finally:  # what was found before something else failed
        if as_json:
            click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    if any(finding.verdict == "bad" for finding in findings):
        context.exit(EdgertError.exit_code)
