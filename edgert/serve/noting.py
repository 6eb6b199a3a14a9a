"""Noting: every request has a record, which is told to whoever takes notes once it is over."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgert.serve.guard import is_private
from edgert.serve.record import RECORD, Note, Record

MOST_LETTERS = 100  # of an address that nothing answers at


class Noting:
    """An ASGI middleware, before all others: what they refuse is noted, too."""

    def __init__(self, app: ASGIApp, note: Note) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[RECORD] = Record(scope["method"])

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, heard)
        except Exception:
            record.status = 500
            raise
        finally:
            record.known, record.address = "endpoint" in scope, _address(scope)
            record.end()
            self._note(record)


def _address(scope: Scope) -> str:
    """Without what a client may have put into it, such as the name of a conversation."""
    path: str = scope["path"]
    if "endpoint" in scope:
        for name, value in scope["path_params"].items():  # one at most, at the end
            path = f"{path.removesuffix(value)}{{{name}}}"
        return path
    shown = "/".join(path.split("/")[:2]) if is_private(path) else path
    return "".join(letter if letter.isprintable() else "?" for letter in shown[:MOST_LETTERS])
