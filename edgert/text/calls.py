"""Calls of tools in a model's own words: how each family writes them, to ask for them and to read them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgert.errors import UsageError
from edgert.text.grammar import SPACES, Grammar
from edgert.text.tokenizer import Tokenizer
from edgert.text.tools import Tool


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be run, with its arguments. `id` tells the results apart."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(8)}")

    def to_json(self) -> dict[str, Any]:
        """As messages hold it: OpenAI's clients have the arguments as JSON text."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True)
class Dialect:
    """How a family writes calls: `begin`, then each as `before` NAME `between` ARGUMENTS `after`, then `end`.

    `marks`: what a chat template of the family has. `most`: how many calls an answer may have.
    """

    name: str
    marks: tuple[str, ...]
    before: str
    between: str
    after: str
    begin: str = ""
    separator: str = "\n"
    end: str = ""
    most: int = 8

    def spell(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Names and arguments as the model would write them."""
        texts = (
            f"{self.before}{name}{self.between}{json.dumps(arguments, ensure_ascii=False)}{self.after}"
            for name, arguments in calls
        )
        return self.begin + self.separator.join(texts) + self.end

    def read(self, text: str) -> tuple[ToolCall, ...]:
        """The calls of a text that begins with them. One that was cut is none."""
        return tuple(self._read(text))

    def grammar(self, tools: Sequence[Tool], tokenizer: Tokenizer) -> Grammar:
        """In Lark: one call or several, each of one of the tools."""

        def spelled(text: str) -> str:
            return _literal(text, tokenizer)

        calls = []
        for number, tool in enumerate(tools):
            schema = json.dumps({**tool.schema, "x-guidance": {"whitespace_pattern": SPACES}})
            named = spelled(self.before + tool.name + self.between)
            calls.append(f"call_{number}: {named} %json {schema} {spelled(self.after)}")
        more = f"({spelled(self.separator)} call){{0,{self.most - 1}}}" if self.most > 1 else ""
        start = f"start: {spelled(self.begin)} call {more} {spelled(self.end)}"
        one = "call: " + " | ".join(f"call_{number}" for number in range(len(tools)))
        return Grammar("tools", "\n".join([start, one, *calls]))

    def _read(self, text: str) -> Iterator[ToolCall]:
        decoder, at = json.JSONDecoder(), text.find(self.begin) + len(self.begin)
        while (at := _skip(text, at, self.before, self.separator)) >= 0:
            name, found, rest = text[at:].partition(self.between)
            try:
                arguments, length = decoder.raw_decode(rest)
            except ValueError:
                return
            if not (found and rest[length:].startswith(self.after)):
                return
            yield ToolCall(name, arguments)
            at = len(text) - len(rest) + length + len(self.after)


DIALECTS = (
    Dialect(
        "R1",
        ("<｜tool▁call▁begin｜>",),
        begin="<｜tool▁calls▁begin｜>",
        before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        between="\n```json\n",
        after="\n```<｜tool▁call▁end｜>",
        end="<｜tool▁calls▁end｜>",
    ),
    Dialect(
        "Phi",
        ("<|tool|>", "<|/tool|>"),
        begin="<|tool_call|>[",
        before='{"name": "',
        between='", "arguments": ',
        after="}",
        separator=", ",
        end="]<|/tool_call|>",
    ),
    Dialect(
        "Hermes and Qwen",
        ("<tool_call>", 'arguments": '),
        before='<tool_call>\n{"name": "',
        between='", "arguments": ',
        after="}\n</tool_call>",
    ),
    Dialect(
        "Llama 3",
        ('"parameters": dictionary',),
        before='{"name": "',
        between='", "parameters": ',
        after="}",
        most=1,  # its template refuses several
    ),
)


def dialect_of(template: str) -> Dialect:
    """The dialect of a chat template that takes tools. Raises UsageError where it is none of those known."""
    plain = template.replace('\\"', '"')
    for dialect in DIALECTS:
        if all(mark in plain for mark in dialect.marks):
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise UsageError(f"tools: how this model's chat template writes calls is not known (known: {known})")


def _skip(text: str, at: int, before: str, separator: str) -> int:
    """Where a call's name begins; below 0 if there is no call."""
    for start in (at, at + len(separator)):
        if text.startswith(before, start):
            return start + len(before)
    return -1


def _literal(text: str, tokenizer: Tokenizer) -> str:
    """A text in Lark: added tokens by their ids, the rest in quotes."""
    ids = {content: token for token, content in tokenizer.added_tokens.items()}
    pattern = "|".join(map(re.escape, sorted(ids, key=len, reverse=True))) or r"(?!)"
    parts = re.split(f"({pattern})", text)
    return " ".join(
        f"<[{ids[part]}]>" if part in ids else json.dumps(part, ensure_ascii=False) for part in parts if part
    )
