"""The application: every address and what answers there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgert.serve.description import description
from edgert.serve.desk import Desk
from edgert.serve.endpoint import Limits, Refusal
from edgert.serve.guard import Cors, Guard
from edgert.serve.metrics import Metrics
from edgert.serve.models import keep_tidy
from edgert.serve.noting import Noting
from edgert.serve.ollama.routes import ollama_routes
from edgert.serve.openai.routes import openai_routes
from edgert.serve.page.routes import page_routes
from edgert.serve.record import Note, Record
from edgert.serve.refused import refused

NOTHING = {404: "there is nothing at this address", 405: "this address takes no requests of this method"}


@dataclass(frozen=True)
class Policy:
    """Who may ask, and how much. `key`, `hosts`: see `Guard`; `origins`: whose pages may ask, "*" is all."""

    key: str | None = None
    hosts: Sequence[str] | None = None
    origins: Sequence[str] = ()
    page: bool = True  # with the conversations that are kept here, which whoever may ask can read
    limits: Limits = field(default_factory=Limits)


def application(desk: Desk, policy: Policy | None = None, notes: Sequence[Note] = ()) -> Starlette:
    """For any ASGI server. Each of `notes` is told of every request that was answered, or refused."""
    policy = policy or Policy()

    metrics = Metrics(desk)

    def note(record: Record) -> None:
        metrics(record)
        for each in notes:
            each(record)

    async def figures(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(desk.models))
        yield
        tidying.cancel()
        await desk.models.close()

    routes = [
        Route("/health", health),
        Route("/metrics", figures, include_in_schema=False),
        *openai_routes(desk, policy.limits),
        *ollama_routes(desk, policy.limits),
        *(page_routes(desk, policy.limits) if policy.page else ()),
    ]
    described = description(routes, desk.models.served)

    async def openapi(_: Request) -> JSONResponse:
        return JSONResponse(described)

    return Starlette(
        routes=[*routes, Route("/openapi.json", openapi)],
        middleware=[Middleware(Noting, note=note), *_middleware(policy)],
        exception_handlers={404: not_here, 405: not_here},
        lifespan=lifespan,
    )


async def health(_: Request) -> JSONResponse:
    """For what watches over the machine."""
    return JSONResponse({"status": "ok"})


async def not_here(request: Request, error: Exception) -> Response:
    """For addresses and methods that nothing answers."""
    if not isinstance(error, HTTPException):
        raise error
    refusal = Refusal(error.status_code, NOTHING[error.status_code], headers=error.headers or {})
    return refused(request.url.path, refusal)


def _middleware(policy: Policy) -> list[Middleware]:
    """CORS first: a browser asks whether it may ask without a key."""
    guard = Middleware(Guard, key=policy.key, hosts=policy.hosts, origins=policy.origins)
    if not policy.origins:
        return [guard]
    return [Middleware(Cors, origins=policy.origins), guard]
