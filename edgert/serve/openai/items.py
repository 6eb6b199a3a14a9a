"""Items: what an answer consists of in `/v1/responses`, and the events that tell of each as it grows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from edgert.answering.reply import Chunk
from edgert.text.calls import ToolCall

Event = dict[str, Any]
NAMES = {"thinking": "reasoning", "answer": "message"}
PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


class Items:
    """The items so far; of a thought and of an answer one each, of every call one."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self._kind: str | None = None  # of the one that grows
        self._id = ""
        self._text = ""

    def events(self, chunk: Chunk) -> Iterator[Event]:
        """What a chunk adds, ends and begins."""
        if chunk.text:
            kind = NAMES[chunk.channel]
            if kind != self._kind:
                yield from self.close()
                yield from self._begin(kind)
            self._text += chunk.text
            yield {
                "type": f"response.{PARTS[kind]}.delta",
                **self._place(),
                "delta": chunk.text,
                **_logs(kind),
            }
        if chunk.finish_reason:
            yield from self.close()
            for call in chunk.tool_calls:
                yield from self._call(call)

    def close(self) -> Iterator[Event]:
        """The one that grows is whole, if there is one."""
        if self._kind is None:
            return
        kind, place = self._kind, self._place()
        part = self._part()
        yield {"type": f"response.{PARTS[kind]}.done", **place, "text": self._text, **_logs(kind)}
        yield {"type": "response.content_part.done", **place, "part": part}
        item = self._item([part], "completed")
        self.done.append(item)
        self._kind = None
        yield {"type": "response.output_item.done", "output_index": place["output_index"], "item": item}

    def _begin(self, kind: str) -> Iterator[Event]:
        self._kind, self._text = kind, ""
        self._id = f"{'rs' if kind == 'reasoning' else 'msg'}_{secrets.token_hex(12)}"
        added = {"output_index": len(self.done), "item": self._item([], "in_progress")}
        yield {"type": "response.output_item.added", **added}
        yield {"type": "response.content_part.added", **self._place(), "part": self._part()}

    def _call(self, call: ToolCall) -> Iterator[Event]:
        told = call.to_json()["function"]
        item = {"id": f"fc_{secrets.token_hex(12)}", "type": "function_call", "call_id": call.id, **told}
        place = {"output_index": len(self.done), "item_id": item["id"]}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": len(self.done), "item": begun}
        arguments = told["arguments"]
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        named = {"arguments": arguments, "name": call.name}
        yield {"type": "response.function_call_arguments.done", **place, **named}
        item["status"] = "completed"
        yield {"type": "response.output_item.done", "output_index": len(self.done), "item": item}
        self.done.append(item)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": len(self.done), "content_index": 0}

    def _part(self) -> dict[str, Any]:
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": self._text}
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        about = {"id": self._id, "type": self._kind, "status": status, "content": content}
        return {**about, "summary": []} if self._kind == "reasoning" else {**about, "role": "assistant"}


def _logs(kind: str) -> dict[str, Any]:
    return {"logprobs": []} if kind == "message" else {}
