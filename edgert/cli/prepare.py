"""`edgert prepare`: a copy of a bundle's weights, packed for this machine."""

from __future__ import annotations

import click

from edgert.cli.opening import open_bundle
from edgert.cli.options import kv_option


@click.command(short_help="Pack a bundle's weights for this machine, once.")
@click.argument("bundle", required=False)
@kv_option
@click.option("--replace", is_flag=True, help="Remove the bundle's own weights afterwards.")
def prepare(*, bundle: str | None, kv: str | None, replace: bool) -> None:
    """Save a copy of a bundle's weights as this machine's kernels want them, to be mapped at every start.

    Starting takes less time then, and the weights are pages that the system may drop rather than memory that
    must be kept. The copy belongs to this processor and version of onnxruntime; after
    an update it is made again by itself.

    --replace saves disk, but then the copy is all there is: the bundle runs on machines like this one only,
    and after an update of onnxruntime it has to be exported or pulled again.
    """
    from edgert import devices
    from edgert.engine.loading import choose_graph
    from edgert.engine.prepared import Prepared

    opened = open_bundle(bundle)
    copy = Prepared(opened, choose_graph(opened, devices.detect().profile, kv))
    if copy.usable:
        click.echo(f"{copy.path.parent}: prepared already")
    else:
        click.echo(f"Preparing {opened.folder}: about {copy.needed / 1e6:,.0f} MB on disk …", err=True)
        copy.make()
        click.echo(f"{copy.path.parent}: {copy.size / 1e6:,.0f} MB, computes the same bit for bit")
    if replace:
        before = opened.size
        copy.replace_original()
        click.echo(
            f"{opened.folder}: removed {(before - opened.size) / 1e6:,.0f} MB that the copy holds, too"
        )
