"""The application: every address and what answers there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edgert.serve.desk import Desk
from edgert.serve.endpoint import Dialect, Endpoint, Limits, Refusal, refusal_of
from edgert.serve.guard import Guard
from edgert.serve.models import NoSuchModel, Served, keep_tidy
from edgert.serve.openai.chat import Chat
from edgert.serve.openai.chat_body import ChatBody
from edgert.serve.openai.refusals import OpenAI
from edgert.serve.openai.text import Text
from edgert.serve.openai.text_body import TextBody
from edgert.serve.record import Note, Record

NOTHING = {404: "there is nothing at this address", 405: "this address takes no requests of this method"}


@dataclass(frozen=True)
class Policy:
    """Who may ask, and how much. `key`, `hosts`: see `Guard`; `origins`: whose pages may ask, "*" is all."""

    key: str | None = None
    hosts: Sequence[str] | None = None
    origins: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)


def application(desk: Desk, policy: Policy | None = None, notes: Sequence[Note] = ()) -> Starlette:
    """For any ASGI server. Each of `notes` is told of every request that was answered, or refused."""
    policy = policy or Policy()

    def note(record: Record) -> None:
        for each in notes:
            each(record)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(desk.models))
        yield
        tidying.cancel()
        await desk.models.close()

    async def not_here(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return JSONResponse(OpenAI().refusal(Refusal(status, NOTHING[status])), status)

    return Starlette(
        routes=[Route("/health", health), *openai_routes(desk, note, policy.limits)],
        middleware=_middleware(policy),
        exception_handlers={404: not_here, 405: not_here},
        lifespan=lifespan,
    )


async def health(_: Request) -> JSONResponse:
    """For what watches over the machine."""
    return JSONResponse({"status": "ok"})


def openai_routes(desk: Desk, note: Note, limits: Limits) -> list[BaseRoute]:
    """OpenAI's API."""
    dialect: Dialect = OpenAI()
    chat = Endpoint(ChatBody, Chat(desk), dialect, note, limits)
    text = Endpoint(TextBody, Text(desk), dialect, note, limits)

    async def models(_: Request) -> JSONResponse:
        cards = [_card(one) for one in desk.models.served.values()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(request: Request) -> JSONResponse:
        try:
            return JSONResponse(_card(desk.models.named(request.path_params["name"])))
        except NoSuchModel as error:
            return JSONResponse(dialect.refusal(refusal_of(error)), 404)

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
    ]


def _card(served: Served) -> dict[str, object]:
    made = int((served.bundle.folder / "edgert.json").stat().st_mtime)
    return {"id": served.name, "object": "model", "created": made, "owned_by": "edgert"}


def _middleware(policy: Policy) -> list[Middleware]:
    """CORS first: a browser asks whether it may ask without a key."""
    guard = Middleware(Guard, key=policy.key, hosts=policy.hosts)
    if not policy.origins:
        return [guard]
    cors = Middleware(
        CORSMiddleware, allow_origins=policy.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
    return [cors, guard]
