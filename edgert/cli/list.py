"""`edgert list`: the students on this disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from edgert import home
from edgert.errors import BundleError

if TYPE_CHECKING:
    from edgert.bundle import Manifest
    from edgert.shelf import KeptBundle, KeptCheckpoint


@click.command(short_help="List the students on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, sizes in bytes.")
def list(as_json: bool) -> None:
    """List the bundles that `edgert pull` made, and the checkpoints that it made them from.

    \b
    edgert list
    edgert list --json

    For each bundle: its size on disk, how weights are stored, how far its predictions are from the original's
    (KL divergence in nats per token, a piece of a word; 0 is equal), and when it was last loaded. `edgert
    info NAME` tells more.

    A checkpoint is the model as it was downloaded. It is kept to export it again; `edgert rm --only
    checkpoint NAME` frees its space, and the bundle stays. All are kept in the user's cache folder, or in
    EDGERT_HOME.
    """
    from edgert import shelf

    bundles, checkpoints = shelf.bundles(), shelf.checkpoints()
    if as_json:
        tables = {"bundles": [*map(_table, bundles)], "checkpoints": [*map(_checkpoint_table, checkpoints)]}
        click.echo(json.dumps({"home": str(home.home()), **tables}, indent=2, ensure_ascii=False))
    elif bundles or checkpoints:
        click.echo("\n".join(_lines(bundles, checkpoints)))
    else:
        click.echo(f"Nothing is in {home.home()} yet; get a student with: edgert pull")


def _lines(bundles: Sequence[KeptBundle], checkpoints: Sequence[KeptCheckpoint]) -> Iterator[str]:
    width = max(len(kept.name) for kept in (*bundles, *checkpoints))
    for bundle in bundles:
        yield f"{bundle.name:{width}}  {_mb(bundle.size)}  {_facts(bundle)}"
    for checkpoint in checkpoints:
        kind = "checkpoint" if checkpoint.whole else "part of a checkpoint: `edgert pull` goes on with it"
        yield f"{checkpoint.name:{width}}  {_mb(checkpoint.size)}  {kind}"
    total = sum(kept.size for kept in (*bundles, *checkpoints))
    yield f"{'total':{width}}  {_mb(total)}  in {home.home()}"


def _facts(bundle: KeptBundle) -> str:
    try:
        manifest = bundle.manifest()
    except BundleError as error:
        return str(error)
    used = bundle.last_used
    when = f"used {used.astimezone():%Y-%m-%d %H:%M}" if used else "not used yet"
    return f"{manifest.quantization.scheme:5}  {_passport(manifest):30}  {when}"


def _passport(manifest: Manifest) -> str:
    """What was measured of the graph that runs unless another is asked for."""
    if fidelity := next(iter(manifest.graphs.values())).fidelity:
        return f"mean KL {fidelity.mean_kl:.4f}, top-1 {fidelity.top1:.1%}"
    return "the original itself" if manifest.quantization.scheme == "fp32" else "not measured"


def _mb(size: int) -> str:
    return f"{size / 1e6:8,.0f} MB"


def _table(bundle: KeptBundle) -> dict[str, Any]:
    table: dict[str, Any] = {"name": bundle.name, "folder": str(bundle.folder), "size": bundle.size}
    used: datetime | None = bundle.last_used
    table["last_used"] = used.isoformat(timespec="seconds") if used else None
    try:
        manifest = bundle.manifest()
    except BundleError as error:
        return {**table, "damaged": str(error)}
    fidelity = next(iter(manifest.graphs.values())).fidelity
    return {
        **table,
        "quantization": manifest.quantization.scheme,
        "mean_kl": fidelity.mean_kl if fidelity else None,
        "top1": fidelity.top1 if fidelity else None,
    }


def _checkpoint_table(checkpoint: KeptCheckpoint) -> dict[str, Any]:
    place = {"name": checkpoint.name, "folder": str(checkpoint.folder)}
    return {**place, "size": checkpoint.size, "whole": checkpoint.whole}
