"""`edgert fit`: how much memory a student takes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgert.cli import completing
from edgert.cli.opening import find_bundle
from edgert.cli.options import kv_option
from edgert.errors import EdgertWarning, UsageError

if TYPE_CHECKING:
    from edgert.bundle import Bundle, Manifest
    from edgert.devices import DeviceProfile
    from edgert.engine.memory import MemoryPlan


@click.command(short_help="Tell whether a student fits into memory.")
@click.argument("source", metavar="BUNDLE|CHECKPOINT", shell_complete=completing.bundles)
@click.option(
    "--device",
    "names",
    multiple=True,
    shell_complete=completing.devices,
    help="Another kind of machine, or 'all'. May be given more than once.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Most tokens (pieces of words) of prompt and answer together. Default: what suits the device.",
)
@click.option(
    "--conversations",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many conversations at once. Each takes memory for the tokens of its own context.",
)
@click.option(
    "--quant",
    type=click.Choice(["int8", "int4", "fp32"]),
    help="How the weights of a checkpoint would be stored. Default: int8.",
)
@kv_option
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON, in bytes.")
def fit(
    *,
    source: str,
    names: tuple[str, ...],
    context: int | None,
    conversations: int,
    quant: str | None,
    kv: str | None,
    as_json: bool,
) -> None:
    """Tell how much memory a student takes, and the longest context that fits. Nothing is loaded for that.

    \b
    edgert fit ./my-bundle                              on this machine
    edgert fit ./my-student --device raspberry-pi-4     before anything is exported
    edgert fit ./my-student --device all --quant int4

    The argument is a bundle, which `edgert export` made, or a checkpoint, as it would be exported. The
    context is what the model has in view: prompt and answer together.
    """
    from edgert import devices

    wanted = devices.names() if names == ("all",) else names
    profiles = [devices.load(name) for name in wanted] or [devices.detect().profile]
    bundles = _opened(source, profiles, quant, kv)
    fits = [
        _fit(bundle, profile, context, conversations, kv)
        for bundle, profile in zip(bundles, profiles, strict=True)
    ]
    if as_json:
        click.echo(json.dumps([_table(*found) for found in fits], indent=2))
    else:
        click.echo("\n\n".join("\n".join(_lines(*found)) for found in fits))


def _opened(
    source: str, profiles: Sequence[DeviceProfile], quant: str | None, kv: str | None
) -> list[Bundle]:
    """A bundle for each profile: the one that was given, or those that exports would give.

    Raises UsageError.
    """
    from edgert.bundle import MANIFEST, Bundle, open_bundle

    folder = find_bundle(source)
    if not (folder / MANIFEST).exists():
        from edgert import export

        options: dict[str, Any] = {"quant": quant or "int8", "kv": kv}
        choices = [export.ExportOptions(**options, devices=(profile.source,)) for profile in profiles]
        return [Bundle(folder, manifest) for manifest in export.previews(folder, choices)]
    if quant:
        raise UsageError(f"{source} is a bundle, exported already: --quant is for checkpoints")
    return [open_bundle(folder)] * len(profiles)


def _fit(
    bundle: Bundle, profile: DeviceProfile, context: int | None, conversations: int, kv: str | None
) -> tuple[Manifest, DeviceProfile, MemoryPlan]:
    from edgert import devices
    from edgert.engine.loading import choose_graph, plan

    manifest, limit = bundle.manifest, bundle.manifest.model.context
    if context and context > limit:
        raise UsageError(f"--context {context}: the longest that {manifest.name} can hold is {limit}")
    graph = choose_graph(bundle, profile, kv)
    form = manifest.graphs[graph].form
    if profile.is_slow(form):
        slower = f"{profile.cost(form):.0f} times as long as with int8 exported for it"
        warnings.warn(f"on {profile.name} a token will take about {slower}", EdgertWarning, stacklevel=2)
    machine = devices.here() if profile.suits(devices.here()) else None
    length = context or min(profile.context, limit)
    return manifest, profile, plan(bundle, profile, graph, length, machine, conversations=conversations)


def _places(profile: DeviceProfile) -> list[tuple[str, int]]:
    """Sizes that such a device is sold with, and what each leaves; this machine, if none are known."""
    from edgert import devices

    memory = profile.memory
    if memory.sizes:
        return [(f"of {size >> 20:,} MiB, free", size - memory.system) for size in memory.sizes]
    return [("free here", devices.memory_available())]


def _lines(manifest: Manifest, profile: DeviceProfile, plan: MemoryPlan) -> Iterator[str]:
    quantization = manifest.quantization
    several = f" for each of {plan.conversations} conversations" if plan.conversations > 1 else ""
    yield f"{manifest.name} on {profile.title}, {quantization.scheme}, context {plan.context}{several}"
    yield f"  {'weights':22}{_mb(plan.weights)}"
    yield f"  {'keys and values':22}{_mb(plan.kv)}   {plan.kv_per_token / 1e3:.1f} MB per 1,000 tokens"
    yield f"  {'runtime, tokenizer':22}{_mb(plan.runtime)}"
    yield f"  {'scratch':22}{_mb(plan.scratch)}   while reading {profile.prefill_chunk} tokens at a time"
    if plan.scores:
        yield f"  {'attention scores':22}{_mb(plan.scores)}   while a prompt is read"
    if plan.adapters:
        yield f"  {'adapters':22}{_mb(plan.adapters)}   all of them; each is read when it is first chosen"
    if plan.packing:
        yield f"  {'packing':22}{_mb(plan.packing)}   on top of weights and runtime while it loads"
    yield f"  {'total':22}{_mb(plan.total)}   peak {plan.peak / 1e6:,.0f} MB"
    for place, room in _places(profile):
        longest = plan.longest_context(room, manifest.model.context)
        if not longest:
            least = max(plan.total - plan.kv - plan.scores, plan.runtime + plan.weights + plan.packing)
            verdict = f"does not fit: {(least - room) / 1e6:,.0f} MB too much without any token"
        elif longest < plan.context:
            verdict = f"fits with a shorter context: --context {longest}"
        else:
            verdict = f"fits, up to a context of {longest}"
        yield f"  {place:22}{_mb(room)}   {verdict}"


def _mb(size: int) -> str:
    return f"{size / 1e6:8,.0f} MB"


def _table(manifest: Manifest, profile: DeviceProfile, plan: MemoryPlan) -> dict[str, Any]:
    limit = manifest.model.context
    places = [
        {"memory": place, "free": room, "longest_context": plan.longest_context(room, limit)}
        for place, room in _places(profile)
    ]
    totals = {
        "kv": plan.kv,
        "scores": plan.scores,
        "total": plan.total,
        "needed": plan.needed,
        "peak": plan.peak,
    }
    return {"name": manifest.name, "device": profile.name, **asdict(plan), **totals, "places": places}
