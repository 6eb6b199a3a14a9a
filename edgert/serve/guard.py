"""Guard: who may ask. It stands before everything else that the server does."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgert.serve.endpoint import Refusal
from edgert.serve.refused import refused

OPEN = ("/health", "/")  # for what watches a machine, and for the page, which asks for the key
OPEN_BELOW = "/page/"
PRIVATE = ("/sessions", "/talk/")
READING = ("GET", "HEAD", "OPTIONS")


class Cors:
    """An ASGI middleware: pages of `origins` may read answers, but no conversations that are kept here."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        private = scope["type"] == "http" and is_private(scope["path"])
        await (self._app if private else self._open)(scope, receive, send)


def is_private(path: str) -> bool:
    """Whether an address is for the server's own page only."""
    return path.startswith(PRIVATE)


class Guard:
    """An ASGI middleware.

    `key`: what clients must send as "Authorization: Bearer KEY"; None is no key. `hosts`: the names that a
    client may have asked for, or None for any. A page of another site whose name was made to lead to this
    machine (DNS rebinding) has that name in its Host header. `origins`: other sites whose pages may ask;
    without it a page could have this server write and remove, even if it can't read the answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str | None = None,
        hosts: Iterable[str] | None = None,
        origins: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._key = key
        self._origins = frozenset(origins)
        self._hosts = frozenset(hosts) if hosts is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope, Headers(scope=scope)) if scope["type"] == "http" else None
        answer: ASGIApp | Response = refused(scope["path"], refusal) if refusal else self._app
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        path = scope["path"]
        if self._hosts is not None and _name(headers.get("host", "")) not in self._hosts:
            asked = headers.get("host", "")
            message = f"this server answers as {', '.join(sorted(self._hosts))} only, not as {asked!r}"
            return Refusal(403, message)
        if scope["method"] not in READING and not self._knows_origin(path, headers):
            message = f"pages of {headers['origin']} may not ask this server: --cors names those that may"
            return Refusal(403, message)
        if self._key is None or path in OPEN or path.startswith(OPEN_BELOW):
            return None
        if self._knows_key(headers.get("authorization", "")):
            return None
        message = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
        return Refusal(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _knows_origin(self, path: str, headers: Headers) -> bool:
        """Whether a request comes from no page, from one of this server, or from one that may ask."""
        origin = headers.get("origin")
        own = origin is not None and origin.partition("://")[2] == headers.get("host")
        may = not is_private(path) and bool(self._origins & {origin, "*"})
        return origin is None or own or may

    def _knows_key(self, header: str) -> bool:
        """In a time that doesn't tell how much of it is right."""
        kind, _, given = header.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), (self._key or "").encode()
        )


def _name(host: str) -> str:
    """Without the port: "localhost:8080", "[::1]:8080"."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()
