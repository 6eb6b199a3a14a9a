"""The addresses of Ollama's API."""

from __future__ import annotations

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from edgert.serve.desk import Desk
from edgert.serve.endpoint import Endpoint, Limits
from edgert.serve.ollama.asking import Asking
from edgert.serve.ollama.body import ChatBody, GenerateBody
from edgert.serve.ollama.catalog import Catalog
from edgert.serve.ollama.refusals import Ollama
from edgert.serve.outgoing import Outgoing
from edgert.serve.strict import Strict

# What changes the models on disk is for the command line.
ELSEWHERE = {
    "/api/pull": "edgert pull NAME, then start the server with it",
    "/api/push": "copy the bundle's folder",
    "/api/create": "edgert export CHECKPOINT BUNDLE",
    "/api/copy": "copy the bundle's folder",
    "/api/delete": "edgert rm NAME",
    "/api/embed": "these bundles have no embeddings",
    "/api/embeddings": "these bundles have no embeddings",
}


class ShowBody(Strict):
    """Which model; older clients call it `name`."""

    model: str = Field("", alias="model")
    name: str = ""
    verbose: bool | None = None


def ollama_routes(desk: Desk, limits: Limits) -> list[BaseRoute]:
    """All of them."""
    catalog, dialect = Catalog(desk.models), Ollama()

    async def version(_: Request) -> JSONResponse:
        return JSONResponse(catalog.version())

    async def tags(_: Request) -> JSONResponse:
        return JSONResponse(catalog.tags())

    async def running(_: Request) -> JSONResponse:
        return JSONResponse(catalog.running())

    async def show(body: ShowBody, out: Outgoing) -> None:
        await out.json(catalog.show(body.model or body.name))

    async def elsewhere(request: Request) -> JSONResponse:
        path = request.url.path
        return JSONResponse({"error": f"{path} is not done by this server: {ELSEWHERE[path]}"}, 501)

    asking = Asking(desk)
    return [
        Route("/api/version", version),
        Route("/api/tags", tags),
        Route("/api/ps", running),
        Route("/api/show", Endpoint(ShowBody, show, dialect, limits), methods=["POST"]),
        Route("/api/chat", Endpoint(ChatBody, asking, dialect, limits), methods=["POST"]),
        Route("/api/generate", Endpoint(GenerateBody, asking, dialect, limits), methods=["POST"]),
        *(Route(path, elsewhere, methods=["POST", "DELETE"], include_in_schema=False) for path in ELSEWHERE),
    ]
