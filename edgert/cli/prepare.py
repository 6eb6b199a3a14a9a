"""`edgert prepare`: a copy of a bundle's weights, packed for this machine."""

from __future__ import annotations

import click

from edgert.cli import completing
from edgert.cli.opening import open_bundle
from edgert.cli.options import kv_option


@click.command(short_help="Make a bundle start faster on this machine.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@kv_option
@click.option("--replace", is_flag=True, help="Remove the bundle's own weights afterwards, to save disk.")
def prepare(*, bundle: str | None, kv: str | None, replace: bool) -> None:
    """Save a copy of a bundle's weights in the order in which this machine multiplies by them.

    \b
    edgert prepare                         the default student
    edgert prepare ./my-bundle
    edgert prepare ./my-bundle --replace   keep only the copy

    BUNDLE is the folder that a student was exported to, or the name that it was pulled by. With the copy it
    starts in less time, and where memory is short, the system can drop weights and read them again. The copy
    belongs to this processor and to this version of onnxruntime, the engine that computes; when one of them
    changes, it is made again by itself.

    With --replace the copy is all there is. The bundle then runs on machines like this one only, and after an
    update of onnxruntime it has to be exported or pulled again.
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
