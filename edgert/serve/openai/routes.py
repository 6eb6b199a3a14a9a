"""The addresses of OpenAI's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from edgert.bundle import MANIFEST
from edgert.serve.desk import Desk
from edgert.serve.endpoint import Dialect, Endpoint, Limits, refusal_of
from edgert.serve.models import NoSuchModel, Served
from edgert.serve.openai.chat import Chat
from edgert.serve.openai.chat_body import ChatBody
from edgert.serve.openai.refusals import OpenAI
from edgert.serve.openai.response_body import ResponseBody
from edgert.serve.openai.responses import Responses
from edgert.serve.openai.text import Text
from edgert.serve.openai.text_body import TextBody


def openai_routes(desk: Desk, limits: Limits) -> list[BaseRoute]:
    """All of them."""
    dialect: Dialect = OpenAI()
    chat = Endpoint(ChatBody, Chat(desk), dialect, limits)
    responses = Endpoint(ResponseBody, Responses(desk), dialect, limits)
    text = Endpoint(TextBody, Text(desk), dialect, limits)

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
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
    ]


def _card(served: Served) -> dict[str, object]:
    made = int((served.bundle.folder / MANIFEST).stat().st_mtime)
    return {"id": served.name, "object": "model", "created": made, "owned_by": "edgert"}
