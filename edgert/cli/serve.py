"""`edgert serve`: bundles for programs that speak OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.opening import open_bundle, own_settings
from edgert.cli.options import kv_option, model_options
from edgert.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from edgert.serve.models import Served


@click.command(short_help="Answer programs over HTTP.")
@click.argument("bundles", nargs=-1, shell_complete=completing.bundles)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port there."
)
@click.option(
    "--conversations",
    type=click.IntRange(1),
    help="How many questions each bundle answers at a time. Default: up to 8, as memory allows.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="How many questions each bundle may have at a time, answered or waiting. More are refused.",
)
@click.option(
    "--keep-alive",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a bundle that nobody asks stays in memory.",
)
@model_options
@kv_option
def serve(
    *,
    bundles: tuple[str, ...],
    host: str,
    port: int,
    conversations: int | None,
    queue: int,
    keep_alive: float,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    force: bool,
) -> None:
    """Answer programs that speak OpenAI's API, at http://127.0.0.1:8080/v1.

    \b
    edgert serve                       the default student
    edgert serve ./my-bundle other     two bundles, by their names
    """
    try:
        import uvicorn

        from edgert.serve.app import application
        from edgert.serve.desk import Desk
        from edgert.serve.models import Models
    except ModuleNotFoundError as error:
        raise MissingExtra("edgert serve", "serve") from error

    def served(name: str | None) -> Served:
        return _served(name, (device, context, threads, kv), conversations, force)

    every = [served(name) for name in bundles] or [served(None)]
    names = [one.name for one in every]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two bundles are called {twice}: rename the folder of one")
    app = application(Desk(Models(every, keep_alive), queue))
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _served(
    name: str | None,
    given: tuple[str | None, int | None, int | None, str | None],
    conversations: int | None,
    force: bool,
) -> Served:
    """A bundle as the command line and the user's settings have it."""
    from edgert.batch.setup import Setup
    from edgert.serve.models import Served

    device, context, threads, kv = given
    own, bundle = own_settings(name), open_bundle(name)
    setup = Setup(
        str(bundle.folder.absolute()),
        device or own.device,
        context or own.context,
        kv,
        threads or own.threads,
        conversations,
        force,
    )
    return Served(home.bundle_name(name or home.DEFAULT_MODEL), bundle, setup, own.answering)
