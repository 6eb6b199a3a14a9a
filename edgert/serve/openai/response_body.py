"""ResponseBody: a request to `/v1/responses`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgert.errors import UsageError
from edgert.serve.openai.body import Caller, StreamOptions
from edgert.serve.strict import Strict
from edgert.text.template import Message


class Reasoning(Strict):
    """`effort` "none" answers without a thought; all else is the model's own way."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(Strict):
    """The form of the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponseBody(Caller):
    """A question, or items of a conversation, which may go on with an earlier response."""

    model: str | None = None
    input: str | list[dict[str, Any]] = Field(min_length=1)
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None  # agents ask; thoughts are open here
    stream_options: StreamOptions | None = None

    def messages(self) -> list[Message]:
        """What `input` says. Raises UsageError."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        messages: list[Message] = []
        for number, item in enumerate(self.input, 1):
            _add(messages, item, number)
        return messages

    def options(self) -> dict[str, Any]:
        """Ours, not checked yet. Raises UsageError."""
        options: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p}
        options["max_tokens"] = self.max_output_tokens
        if self.reasoning and self.reasoning.effort == "none":
            options["thinking"] = False
        if self.text and self.text.format:
            options.update(_form(self.text.format))
        if self.tool_choice != "none":
            options["tools"] = [_tool(tool) for tool in self.tools] if self.tools else None
            options["tool_choice"] = self._choice()
        return {name: value for name, value in options.items() if value is not None}

    def _choice(self) -> str | None:
        match self.tool_choice:
            case None | "auto" | "required":
                return self.tool_choice
            case {"type": "function", "name": str(name)}:
                return name
        raise UsageError(f"tool_choice must be none, auto, required or a function, not {self.tool_choice!r}")


def _add(messages: list[Message], item: dict[str, Any], number: int) -> None:
    """One item more. Calls that follow each other are of one message."""
    match item:
        case {"type": "function_call", "call_id": str(key), "name": str(name), "arguments": str(arguments)}:
            call = {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
            last = messages[-1] if messages else {}
            if last.get("role") == "assistant":
                messages[-1] = {**last, "tool_calls": [*last.get("tool_calls", ()), call]}
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case {"type": "function_call_output", "call_id": str(key), "output": output}:
            messages.append({"role": "tool", "tool_call_id": key, "content": _content(output, number)})
        case {"type": "reasoning"}:
            return  # templates leave earlier thoughts out
        case {"role": str(role), "content": content} if item.get("type", "message") == "message":
            messages.append({"role": role, "content": _content(content, number)})
        case _:
            raise UsageError(
                f"input: item {number} must be a message, function_call, function_call_output or reasoning, "
                f"not of type {item.get('type')!r}"
            )


def _content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"input: the content of item {number} must be a text or a list of parts")
    texts = []
    for part in content:
        match part:
            case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
                texts.append(text)
            case _:
                kind = part.get("type") if isinstance(part, dict) else part
                raise UsageError(f"input: item {number}: parts of type {kind!r} can't be read, only texts")
    return "".join(texts)


def _form(form: dict[str, Any]) -> dict[str, Any]:
    match form:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"json_schema": {"type": "object"}}
        case {"type": "json_schema", "schema": schema}:
            return {"json_schema": schema}
    raise UsageError(f"text.format must be of type text, json_object or json_schema, not {form!r}")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise UsageError(f"tools: only those of type function are known here, not {tool.get('type')!r}")
    return {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
