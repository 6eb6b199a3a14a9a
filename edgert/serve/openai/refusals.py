"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from edgert.serve.endpoint import Refusal
from edgert.serve.outgoing import EVENTS, Outgoing

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class OpenAI:
    """How their API tells a refusal."""

    media_type = EVENTS

    def refusal(self, refusal: Refusal) -> object:
        kind = TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
        error = {"message": refusal.message, "type": kind, "param": refusal.param}
        return {"error": {**error, "code": refusal.code}}

    async def broken_off(self, refusal: Refusal, out: Outgoing) -> None:
        await out.event(self.refusal(refusal))
