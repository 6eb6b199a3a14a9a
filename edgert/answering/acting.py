"""Acting: runs the functions that an answer calls, so that the model can go on with what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgert.answering.reply import Reply
from edgert.errors import UsageError
from edgert.text.tools import Tool


class Acting:
    """For one question: at most so many calls. Those beyond, and of tools without a function, are left."""

    def __init__(self, tools: Sequence[Tool], most: int) -> None:
        if most < 0:
            raise UsageError(f"max_calls must be at least 0, not {most}")
        self._functions = {tool.name: tool for tool in tools if tool.function}
        self._left = most

    def results(self, reply: Reply) -> list[dict[str, Any]]:
        """A message with what each function returned, to be answered next; none if that is not for it."""
        calls = reply.tool_calls
        if reply.finish_reason != "stop" or len(calls) > self._left:
            return []
        if any(call.name not in self._functions for call in calls):
            return []
        self._left -= len(calls)
        return [
            result_of(call.id, call.name, self._functions[call.name].run(call.arguments)) for call in calls
        ]


def result_of(call: str, name: str, text: str) -> dict[str, Any]:
    """The message that tells a call's result, by the call's id."""
    return {"role": "tool", "tool_call_id": call, "name": name, "content": text}
