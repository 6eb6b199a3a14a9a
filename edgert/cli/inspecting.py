"""Commands that show: info, devices."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgert import home

if TYPE_CHECKING:
    from edgert.bundle import Bundle


@click.command(short_help="Show what a bundle holds.")
@click.argument("bundle")
@click.option("--verify", is_flag=True, help="Read every file and compare its SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def info(bundle: str, verify: bool, as_json: bool) -> None:
    """Show what a bundle holds: model, quantization, origin, licence, files."""
    from edgert.bundle import open_bundle

    opened = open_bundle(home.find_bundle(bundle))
    if verify:
        opened.check_hashes()
    click.echo(opened.manifest.to_json() if as_json else _info_text(opened), nl=not as_json)
    if verify and not as_json:
        click.echo(f"{'hashes':12}all {len(opened.manifest.files)} match")


def _info_text(bundle: Bundle) -> str:
    manifest, model, quant = bundle.manifest, bundle.manifest.model, bundle.manifest.quantization
    blocks = ", ".join(f"{kind} {size}" for kind, size in quant.block_size.items())
    rows = [
        ("name", manifest.name),
        ("model", f"{model.family}, {model.parameters / 1e6:.0f} M parameters, {model.num_layers} layers"),
        (
            "context",
            f"up to {model.context} tokens, {_kv_bytes(bundle) * 1000 / 1e6:.1f} MB of KV cache per 1,000",
        ),
        ("weights", f"{quant.scheme}, weights per scale: {blocks}" if blocks else quant.scheme),
        ("devices", ", ".join(manifest.devices)),
        ("origin", f"{manifest.origin.source}, licence {manifest.origin.license or 'not stated'}"),
        ("defaults", f"temperature {manifest.generation.temperature}, top_p {manifest.generation.top_p}"),
        ("written by", f"edgert {manifest.edgert}, format {manifest.format_version}"),
        ("size", f"{bundle.size / 1e6:.0f} MB in {len(manifest.files)} files"),
    ]
    return "\n".join(f"{name:12}{value}" for name, value in rows)


def _kv_bytes(bundle: Bundle) -> int:
    """Bytes of float32 keys and values a token."""
    model = bundle.manifest.model
    return 2 * 4 * model.num_layers * model.num_kv_heads * model.head_dim


@click.command(name="devices", short_help="List device profiles and the one detected.")
@click.option("--json", "as_json", is_flag=True)
def list_devices(as_json: bool) -> None:
    """List the device profiles and the one detected on this machine, with the reason."""
    from edgert import devices

    found = devices.detect()
    profiles = [devices.load(name) for name in devices.names()]
    if as_json:
        table = {
            "detected": found.profile.name,
            "reason": found.reason,
            "profiles": [asdict(p) for p in profiles],
        }
        click.echo(json.dumps(table, indent=2))
        return
    for profile in profiles:
        mark = "*" if profile.name == found.profile.name else " "
        click.echo(f"{mark} {profile.name:20} {profile.title}")
    click.echo(f"* detected: {found.reason}")
