"""The addresses of the page and of its conversations."""

from __future__ import annotations

import asyncio
import warnings
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edgert.errors import ConversationWarning, EdgertError
from edgert.serve.desk import Desk
from edgert.serve.endpoint import Endpoint, Limits, refusal_of
from edgert.serve.openai.refusals import OpenAI
from edgert.serve.outgoing import Outgoing
from edgert.serve.page import talks
from edgert.serve.page.asking import Ask, AskBody
from edgert.serve.strict import Strict

FILES = resources.files("edgert.serve.page") / "web"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing but the package's own files may run or be shown, and no other page may frame this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class RenameBody(Strict):
    """A session, and what it is to be called."""

    session: str
    to: str


class RemoveBody(Strict):
    """A session."""

    session: str


def page_routes(desk: Desk, limits: Limits) -> list[BaseRoute]:
    """All of them."""
    # The page tells what was left out, and these lines would name a session, which its question names.
    warnings.filterwarnings("ignore", category=ConversationWarning)
    dialect, open_talks = OpenAI(), talks.Talks()
    desk.models.closing.append(open_talks.let_go)

    async def listed(_: Request) -> JSONResponse:
        return JSONResponse({"sessions": await asyncio.to_thread(talks.listed)})

    async def shown(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await asyncio.to_thread(talks.shown, request.path_params["name"]))
        except EdgertError as error:
            return JSONResponse(dialect.refusal(refusal_of(error)), 404)

    async def rename(body: RenameBody, out: Outgoing) -> None:
        open_talks.forget(body.session)
        await asyncio.to_thread(talks.rename, body.session, body.to)
        await out.json({"name": body.to})

    async def remove(body: RemoveBody, out: Outgoing) -> None:
        open_talks.forget(body.session)
        await asyncio.to_thread(talks.remove, body.session)
        await out.json({"name": body.session})

    def posting(path: str, body: type[Any], handler: Any) -> Route:
        return Route(path, Endpoint(body, handler, dialect, limits), methods=["POST"])

    return [
        Route("/", file, include_in_schema=False),
        Route("/page/{name}", file, include_in_schema=False),
        Route("/sessions", listed),
        Route("/sessions/{name}", shown),
        posting("/talk/ask", AskBody, Ask(desk, open_talks)),
        posting("/talk/rename", RenameBody, rename),
        posting("/talk/remove", RemoveBody, remove),
    ]


async def file(request: Request) -> Response:
    """One of the page's own."""
    name = request.path_params.get("name", "index.html")
    known = next((each for each in FILES.iterdir() if each.name == name), None)
    if known is None:
        return Response("there is no such file", 404, HEADERS, "text/plain")
    kind = TYPES[f".{name.rpartition('.')[2]}"]
    return Response(known.read_bytes(), 200, HEADERS, kind)
