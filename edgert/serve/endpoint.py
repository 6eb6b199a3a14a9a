"""Endpoint: one address of an API. It reads a body, has it answered, and stops when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from edgert.errors import DoesNotFit, EdgertError, PromptTooLong, UsageError
from edgert.serve.desk import Busy
from edgert.serve.models import NoSuchModel
from edgert.serve.outgoing import Outgoing

Body = TypeVar("Body", bound=BaseModel)
Handler: TypeAlias = Callable[[Body, Outgoing], Awaitable[None]]

# What went wrong, by status; the first that fits.
STATUSES: tuple[tuple[type[EdgertError], int], ...] = (
    (Busy, 429),
    (NoSuchModel, 404),
    (PromptTooLong, 400),
    (UsageError, 400),
    (DoesNotFit, 503),
    (EdgertError, 500),
)


@dataclass(frozen=True)
class Refusal:
    """Why a request has no answer. `param`: the field of the body that it is about."""

    status: int
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """How an API tells a refusal."""

    def refusal(self, refusal: Refusal) -> object: ...

    async def broken_off(self, refusal: Refusal, out: Outgoing) -> None:
        """The same in the middle of a stream."""


class Endpoint(Generic[Body]):
    """An ASGI application for POST requests with a body of JSON."""

    def __init__(self, body: type[Body], handler: Handler[Body], dialect: Dialect) -> None:
        self._body = body
        self._handler = handler
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        out = Outgoing(send)
        try:
            body = self._read(await Request(scope, receive).body())
            await unless_gone(receive, self._handle(body, out))
        except (ClientDisconnect, ClientGone):
            return
        except (EdgertError, ValidationError) as error:
            await self._refuse(refusal_of(error), out)

    async def _handle(self, body: Body, out: Outgoing) -> None:
        await self._handler(body, out)
        await out.end()

    def _read(self, content: bytes) -> Body:
        try:
            table = json.loads(content)
        except ValueError as error:
            raise UsageError(f"the body is not JSON: {error}") from error
        return self._body.model_validate(table)

    async def _refuse(self, refusal: Refusal, out: Outgoing) -> None:
        if out.status is None:
            await out.json(self._dialect.refusal(refusal), refusal.status, refusal.headers)
        else:
            await self._dialect.broken_off(refusal, out)
            await out.end()


class ClientGone(Exception):
    """Nobody is there to be answered any more."""


T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, but cancel it as soon as the client goes. Raises ClientGone, and what the work raises.

    Starlette notices only when it sends, and while a prompt is read there is nothing to send.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal_of(error: EdgertError | ValidationError) -> Refusal:
    """What a client is told of an error."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        return Refusal(400, f"{param or 'the body'}: {first['msg']}", param)
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, Busy) else {}
    return Refusal(status, str(error), headers=headers)
