"""`edgert serve`: bundles behind HTTP."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import click

from edgert import home
from edgert.cli import completing
from edgert.cli.opening import drafting_bundle, open_bundle, own_settings
from edgert.cli.options import draft_option, kv_option, model_options
from edgert.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from edgert.answering.request import Draft, Options
    from edgert.batch.setup import Setup
    from edgert.serve.app import Policy
    from edgert.serve.models import Served
    from edgert.serve.running import Address


@click.command(short_help="A page to chat in, and APIs for programs.")
@click.argument("bundles", nargs=-1, shell_complete=completing.bundles)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port there."
)
@click.option(
    "--api-key",
    envvar="EDGERT_API_KEY",
    metavar="KEY",
    help="What clients must send. Needed for a --host that others can reach. Better in EDGERT_API_KEY, where "
    "no list of processes shows it.",
)
@click.option("--insecure", is_flag=True, help="Let everybody ask who can reach --host, without a key.")
@click.option(
    "--cors", multiple=True, metavar="ORIGIN", help="A web site whose pages may ask; * is all. May repeat."
)
@click.option(
    "--page/--no-page",
    default=None,
    help="A page to chat in, at /. Whoever may ask can read the conversations that are kept on this machine, "
    "so with --insecure there is none by default.",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
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
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="The longest that an answer may take, waiting included. Default: no limit.",
)
@click.option(
    "--body-limit",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="MB",
    help="The largest request that is read.",
)
@click.option(
    "--grace",
    type=click.FloatRange(1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long answers may go on after Ctrl-C or SIGTERM. A second Ctrl-C cuts them.",
)
@click.option(
    "--log",
    type=click.Choice(["text", "json", "off"]),
    default="text",
    show_default=True,
    help="A line per request on standard error, without what was asked and answered.",
)
@draft_option
@model_options
@kv_option
def serve(
    *,
    bundles: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    insecure: bool,
    cors: tuple[str, ...],
    page: bool | None,
    browse: bool,
    conversations: int | None,
    queue: int,
    keep_alive: float,
    timeout: float | None,
    body_limit: float,
    grace: float,
    log: Literal["text", "json", "off"],
    draft: str | None,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    force: bool,
) -> None:
    """Answer over HTTP: a page to chat in, OpenAI's API at /v1, Ollama's at /api.

    The first line tells the address. A bundle is loaded when it is first asked, and put away when nobody asks
    it. Only programs on this machine can ask, unless --host is another.

    \b
    edgert serve --open                the default student, and its page in a browser
    edgert serve ./my-bundle other     two bundles, by their names
    EDGERT_API_KEY=secret edgert serve --host 0.0.0.0
    """
    try:
        from edgert.batch.setup import Setup
        from edgert.serve.app import Policy, application
        from edgert.serve.desk import Desk
        from edgert.serve.endpoint import Limits
        from edgert.serve.log import Log
        from edgert.serve.models import Models
        from edgert.serve.running import Address
    except ModuleNotFoundError as error:
        raise MissingExtra("edgert serve", "serve") from error

    address = Address(host, port)
    _check_open(address, api_key, insecure)
    setup = Setup("", device, context, kv, threads, conversations, force, draft=drafting_bundle(draft))
    answers: Options = {} if draft is None or setup.draft else {"draft": cast("Draft", draft)}
    every = [_served(name, setup, answers) for name in bundles or (None,)]
    shows_page = page if page is not None else address.local or api_key is not None
    limits = Limits(round(body_limit * 1e6), timeout)
    policy = Policy(api_key, address.names if address.local else None, cors, shows_page, limits)
    notes = [] if log == "off" else [Log(log, lambda line: click.echo(line, err=True))]
    app = application(Desk(Models(every, keep_alive), queue), policy, notes)
    _listen(app, address, grace, policy, browse=browse)


def _listen(app: Starlette, address: Address, grace_s: float, policy: Policy, *, browse: bool) -> None:
    """Say where, open the page if asked to, and serve."""
    from edgert.serve.running import run

    with address.bind() as listening:
        host = f"[{address.host}]" if ":" in address.host else address.host
        place = f"http://{host}:{listening.getsockname()[1]}"
        click.echo(f"{place} answers (Ctrl-C ends it)", err=True)
        there = "a page to chat in, " if policy.page else ""
        click.echo(f"There: {there}OpenAI's API at /v1, Ollama's at /api", err=True)
        if browse and not (policy.page and webbrowser.open(place)):
            click.echo(f"edgert: no browser could be opened; go to {place}", err=True)
        run(app, listening, grace_s)


def _check_open(address: Address, key: str | None, insecure: bool) -> None:
    """Refuse to be open to a network by mistake; say it where it is meant. Raises UsageError."""
    if key is not None and not key.strip():
        raise UsageError("the API key is empty")
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UsageError(
            "no client can send the API key: use ASCII characters, with no spaces or line breaks around them"
        )
    if address.local or key is not None:
        return
    if not insecure:
        raise UsageError(
            f"others can reach {address.host}: set a key in EDGERT_API_KEY, "
            "or say --insecure to let everybody ask"
        )
    click.echo(f"edgert: everybody who can reach {address.host} may ask: there is no API key", err=True)


def _served(name: str | None, given: Setup, answers: Options) -> Served:
    """A bundle as the command line and the user's settings have it. Raises UsageError."""
    from edgert.answering.guesser import open_drafting
    from edgert.serve.models import Served
    from edgert.text.tokenizer import open_tokenizer

    own, bundle = own_settings(name), open_bundle(name)
    if given.draft is not None:
        open_drafting(given.draft, open_tokenizer(bundle))
    setup = replace(
        given,
        folder=str(bundle.folder.absolute()),
        device=given.device or own.device,
        context=given.context or own.context,
        threads=given.threads or own.threads,
    )
    return Served(
        home.bundle_name(name or home.DEFAULT_MODEL),
        bundle,
        setup,
        cast("Options", {**own.answering, **answers}),
    )
