"""Endpoint: one address of an API. It reads a body, has it answered, and stops when the client goes away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from edgert.errors import DoesNotFit, EdgertError, MissingExtra, PromptTooLong, UsageError
from edgert.serve.desk import Busy, ShuttingDown
from edgert.serve.models import NoSuchModel, NotThere
from edgert.serve.outgoing import Outgoing
from edgert.serve.record import RECORD

Body = TypeVar("Body", bound=BaseModel)
Handler: TypeAlias = Callable[[Body, Outgoing], Awaitable[None]]


class TooLarge(EdgertError):
    """A body beyond the limit."""


class TooSlow(EdgertError):
    """An answer that took longer than it may."""


@dataclass(frozen=True)
class Limits:
    """`body`: bytes of a request; `seconds`: the longest that an answer may take, waiting included."""

    body: int = 2_000_000  # four times what 128,000 tokens are
    seconds: float | None = None


# What went wrong, by status; the first that fits.
STATUSES: tuple[tuple[type[EdgertError], int], ...] = (
    (Busy, 429),
    (TooLarge, 413),
    (TooSlow, 504),
    (ShuttingDown, 503),
    (MissingExtra, 501),
    (NotThere, 404),
    (PromptTooLong, 400),
    (UsageError, 400),
    (DoesNotFit, 503),
    (EdgertError, 500),
)


# OpenAI's words for it, which programs look for.
CODES: tuple[tuple[type[EdgertError], str], ...] = (
    (Busy, "rate_limit_exceeded"),
    (TooLarge, "too_large"),
    (NoSuchModel, "model_not_found"),
    (PromptTooLong, "context_length_exceeded"),
)


@dataclass(frozen=True)
class Refusal:
    """Why a request has no answer. `param`: the field of the body that it is about. `code`: OpenAI's word."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """How an API tells a refusal. `media_type`: of its streams."""

    @property
    def media_type(self) -> str: ...

    def refusal(self, refusal: Refusal) -> object: ...

    async def broken_off(self, refusal: Refusal, out: Outgoing) -> None:
        """The same in the middle of a stream."""


class Endpoint(Generic[Body]):
    """An ASGI application for POST requests with a body of JSON."""

    def __init__(self, body: type[Body], handler: Handler[Body], dialect: Dialect, limits: Limits) -> None:
        self.body = body
        self._handler = handler
        self.dialect = dialect
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        out = Outgoing(send, scope[RECORD])
        try:
            await self._answer(Request(scope, receive), receive, out)
        except (ClientDisconnect, ClientGone):
            return
        except asyncio.CancelledError:  # by uvicorn, once its grace is over
            await self._refuse(refusal_of(ShuttingDown("the server is shutting down")), out)
        except (EdgertError, ValidationError) as error:
            await self._refuse(refusal_of(error), out)
        except RecursionError:
            await self._refuse(Refusal(400, "the body is nested too deeply"), out)
        except Exception:
            await self._refuse(Refusal(500, "the server failed; its log says how"), out)
            raise

    async def _answer(self, request: Request, receive: Receive, out: Outgoing) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = self._read(await self._content(request))
                await unless_gone(receive, self._handle(body, out))
        except TimeoutError as error:
            raise TooSlow(f"the answer took longer than {self._limits.seconds:g} seconds") from error

    async def _content(self, request: Request) -> bytes:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self._limits.body:
                raise TooLarge(
                    f"the body has more than {self._limits.body / 1e6:.1f} MB, the most that is read"
                )
        return bytes(content)

    async def _handle(self, body: Body, out: Outgoing) -> None:
        await self._handler(body, out)
        await out.end()

    def _read(self, content: bytes) -> Body:
        try:
            table = json.loads(content)
        except ValueError as error:
            raise UsageError(f"the body is not JSON: {error}") from error
        return self.body.model_validate(table)

    async def _refuse(self, refusal: Refusal, out: Outgoing) -> None:
        if out.status is None:
            await out.json(self.dialect.refusal(refusal), refusal.status, refusal.headers)
        else:
            await self.dialect.broken_off(refusal, out)
            await out.end()


TRIED = re.compile(r"(str|int|float|bool)|(list|dict|literal)\[.*\]")
UNKNOWN = "no such field is known here"
LARGER = ", or have the server started with a larger --context"


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
        return _refusal_of_fields(error)
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, Busy) else {}
    code = next((code for kind, code in CODES if isinstance(error, kind)), None)
    told = f"{error.facts}: shorten it{LARGER}" if isinstance(error, PromptTooLong) else str(error)
    return Refusal(status, told, code=code, headers=headers)


def _refusal_of_fields(error: ValidationError) -> Refusal:
    """Of the first field that is wrong, with all that it may be."""
    wrong = [(_place(one["loc"]), one) for one in error.errors(include_url=False, include_input=False)]
    param = wrong[0][0]
    said = dict.fromkeys(_said(one) for place, one in wrong if place == param)
    return Refusal(400, f"{param or 'the body'}: {' or '.join(said)}", param)


def _place(location: tuple[int | str, ...]) -> str | None:
    """Of a field. Where it may have several types, pydantic adds the name of the one that was tried."""
    return ".".join(str(part) for part in location if not TRIED.fullmatch(str(part))) or None


def _said(one: ErrorDetails) -> str:
    return UNKNOWN if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
