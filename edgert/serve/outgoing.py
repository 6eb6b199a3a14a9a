"""Outgoing: what a handler sends back, whole or piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.types import Send

from edgert.serve.record import Record

KEEP_ALIVE_S = 15.0  # proxies and clients give up where nothing comes for a minute
JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"


class Outgoing:
    """One response. Pieces start it, so what goes wrong before the first has a status of its own."""

    def __init__(self, send: Send, record: Record) -> None:
        self._send = send
        self.record = record
        self.status: int | None = None  # None until it has started
        self.ended = False
        self._pieces = 0

    async def json(
        self, content: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """All of it: JSON."""
        await self._start(status, JSON, headers or {})
        await self._body(_text(content), more=False)

    async def event(self, content: object, name: str | None = None) -> None:
        """A server-sent event, of JSON or, for a str, of that text; some APIs name each."""
        text = content if isinstance(content, str) else _text(content)
        named = f"event: {name}\n" if name else ""
        await self._piece(f"{named}data: {text}\n\n", EVENTS)

    async def line(self, content: object) -> None:
        """A line of JSON."""
        await self._piece(_text(content) + "\n", LINES)

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Between events comes a comment, which clients pass over, while a prompt is read for long."""
        keeping = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            keeping.cancel()

    async def end(self) -> None:
        """No piece comes after the last."""
        if not self.ended:
            await self._body("", more=False)

    async def _keep_alive(self) -> None:
        while True:
            sent = self._pieces
            await asyncio.sleep(KEEP_ALIVE_S)
            if self._pieces == sent:
                await self._piece(": \n\n", EVENTS)

    async def _piece(self, text: str, media_type: str) -> None:
        if self.status is None:
            await self._start(200, media_type, {"cache-control": "no-store"})
        self._pieces += 1
        await self._body(text, more=True)

    async def _start(self, status: int, media_type: str, headers: Mapping[str, str]) -> None:
        self.status = status
        every = {"content-type": media_type, "x-request-id": self.record.id, **headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, text: str, *, more: bool) -> None:
        self.ended = not more
        body = text.encode("utf-8", "replace")
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _text(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
