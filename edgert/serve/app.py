"""The application: every address and what answers there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from edgert.serve.desk import Desk
from edgert.serve.endpoint import Endpoint
from edgert.serve.models import keep_tidy
from edgert.serve.openai.chat import Chat, ChatBody
from edgert.serve.openai.refusals import OpenAI


def application(desk: Desk) -> Starlette:
    """For any ASGI server."""

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> JSONResponse:
        served = desk.models.served.values()
        cards = [{"id": one.name, "object": "model", "created": 0, "owned_by": "edgert"} for one in served]
        return JSONResponse({"object": "list", "data": cards})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(desk.models))
        yield
        tidying.cancel()
        await desk.models.close()

    chat = Endpoint(ChatBody, Chat(desk), OpenAI())
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        lifespan=lifespan,
    )
