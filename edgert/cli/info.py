"""`edgert info`: what a bundle holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.opening import open_bundle, own_settings

if TYPE_CHECKING:
    from edgert.bundle import Bundle, GenerationDefaults, Manifest, Quantization
    from edgert.settings import Settings


@click.command(short_help="Show what a bundle holds.")
@click.argument("bundle", shell_complete=completing.bundles)
@click.option(
    "--verify", is_flag=True, help="Read every file and check that it is undamaged, by its SHA-256."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the bundle's manifest, all facts about it, as JSON."
)
def info(bundle: str, verify: bool, as_json: bool) -> None:
    """Show what a bundle holds: model, weights, origin, licence, and how close it is to the original.

    \b
    edgert info ./my-bundle
    edgert info smollm2-135m-instruct --verify

    BUNDLE is the folder that a student was exported to, or the name that it was pulled by.
    """
    from edgert.engine import prepared

    opened = open_bundle(bundle)
    compared = prepared.verify(opened) if verify else 0
    text = opened.manifest.to_json() if as_json else _info_text(opened, own_settings(bundle))
    click.echo(text, nl=not as_json)
    if verify and not as_json:
        click.echo(f"{'hashes':12}all {compared} match")


def _info_text(bundle: Bundle, own: Settings) -> str:
    manifest, model = bundle.manifest, bundle.manifest.model
    rows = [
        ("name", manifest.name),
        ("model", f"{model.family}, {model.parameters / 1e6:.0f} M parameters, {model.num_layers} layers"),
        ("context", f"up to {model.context} tokens, of KV cache per 1,000: {_kv_sizes(manifest)}"),
        ("weights", _weights_text(manifest.quantization)),
        ("devices", ", ".join(manifest.devices)),
        ("origin", str(manifest.origin)),
        *(("adapter", f"{name}, from {facts.source}") for name, facts in manifest.adapters.items()),
        ("defaults", _defaults(manifest.generation)),
        *([("settings", f"{own}; of {home.config_file()}")] if own.values else []),
        ("written by", f"edgert {manifest.edgert}, format {manifest.format_version}"),
        ("size", f"{bundle.size / 1e6:.0f} MB in {len(bundle.present)} files"),
    ]
    rows += [("prepared", text) for text in _copies(bundle)]
    return "\n".join([*(f"{name:12}{value}" for name, value in rows), *manifest.fidelity_lines()])


def _copies(bundle: Bundle) -> Iterator[str]:
    """What `edgert prepare` has made, apart from the bundle itself."""
    from edgert.engine.prepared import copies

    for copy in copies(bundle):
        reason = copy.outdated()
        worth = f"not usable: {reason}" if reason else "made on this machine"
        yield f"{copy.size / 1e6:.0f} MB more in {copy.path.parent.name}/ for {copy.graph}, {worth}"


def _weights_text(quant: Quantization) -> str:
    if quant.scheme == "fp32":
        return quant.scheme
    parts = [f"{quant.scheme}, {quant.bits_per_weight:.2f} bits per weight"]
    if quant.block_size:
        parts.append("weights per scale: " + ", ".join(f"{k} {n}" for k, n in quant.block_size.items()))
    elif quant.bits == 8:
        parts.append("one scale per row")
    if quant.exceptions:
        parts.append(f"{len(quant.exceptions)} matrices at 8 bits")
    parts += ["calibrated"] if quant.rounding == "gptq" else []
    parts += ["rotated"] if quant.rotated else []
    return "; ".join(parts)


def _kv_sizes(manifest: Manifest) -> str:
    """Megabytes of keys and values per thousand tokens, for each way to cache them."""
    from edgert.bundle.graph_io import KV_KINDS

    model = manifest.model
    numbers = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    kinds = dict.fromkeys(facts.kv for facts in manifest.graphs.values())
    return ", ".join(f"{numbers * KV_KINDS[kv].bytes / 1e3:.1f} MB in {kv}" for kv in kinds)


def _defaults(generation: GenerationDefaults) -> str:
    """How the bundle answers by itself."""
    drawn = f"temperature {generation.temperature}, top_p {generation.top_p}"
    penalty = generation.repetition_penalty
    return drawn if penalty == 1 else f"{drawn}, repetition_penalty {penalty}"
