"""ChatTemplate: messages to a prompt, with the model's own Jinja source in Jinja's sandbox.

Environment and helpers are those that templates rely on in transformers (`apply_chat_template`):
trimmed blocks, loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser

from edgert.bundle import CHAT_TEMPLATE, Bundle
from edgert.errors import BundleError, UsageError
from edgert.text.calls import Dialect, dialect_of
from edgert.text.thinking import NO_THOUGHT, OPENED, TAGS, opening
from edgert.text.tokenizer import Tokenizer
from edgert.text.tools import Tool

Message: TypeAlias = Mapping[str, Any]

# What transformers passes besides messages and special tokens.
DEFAULTS: Mapping[str, Any] = {"add_generation_prompt": True, "tools": None, "documents": None}
ROLES = ("system", "developer", "user", "assistant", "tool")
_ARGUMENTS_AS_TABLE = re.compile(r"\barg(?:s|uments)(?:'\]|\"\])?\s*\|\s*tojson")
SWITCHES = ("enable_thinking", "thinking")  # as Qwen3's and SmolLM3's templates call it, and Granite's


class ChatTemplate:
    """A compiled template and the texts of the special tokens it may spell out.

    `thinks`: whether the model has thoughts to be told apart. The template's source says so, or the caller,
    who knows the vocabulary.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", thinks: bool = False
    ) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self.thinks = thinks or any(tag in source for tag in TAGS)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
            names = jinja2.meta.find_undeclared_variables(tree)
        except jinja2.TemplateSyntaxError as error:
            raise BundleError(
                f"the chat template is broken at line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # Python's own limits, such as of nested blocks
            raise BundleError(f"the chat template is broken: {_cause(error)}") from error
        self._switch = next((name for name in SWITCHES if name in names), None)
        self._source = source
        self._tools_named = any(name.name == "tools" for name in tree.find_all(nodes.Name))

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes calls. Raises UsageError if its template takes no tools, or is not known."""
        if not self.takes_tools:
            raise UsageError(
                "tools: this model's chat template takes none, so it was not trained to call them"
            )
        return dialect_of(self._source)

    @property
    def takes_tools(self) -> bool:
        """Whether the model was trained to call tools, as far as the template tells."""
        return self._tools_named or self._in_system

    @property
    def _in_system(self) -> bool:
        """Whether tools are part of the system message, as Phi-4-mini's template has them."""
        return "<|/tool|>" in self._source

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, tools: Sequence[Tool] = ()
    ) -> str:
        """The prompt for the next answer; contents in parts are joined. `tools` are those it may call.

        `thinking` sets the template's switch. A template without one gets its prompt's end changed: to an
        open thought, as DeepSeek recommends for R1, or to an empty one, as Qwen3's template writes where
        thinking is off (tried with R1's in "Reasoning Models Can Be Effective Without Thinking",
        arXiv:2504.09858). None: as the template has it.
        Raises UsageError if a message is malformed, if the template refuses the conversation or fails on it,
        and if a model that doesn't think is to.
        """
        if thinking is None:
            return self._render(messages, tools)
        if self._switch:
            return self._render(messages, tools, {self._switch: thinking})
        if self.thinks:
            prompt = self._render(messages, tools)
            return prompt.removesuffix(opening(prompt)) + (OPENED if thinking else NO_THOUGHT)
        if thinking:
            raise UsageError(
                "this model doesn't think: its chat template has no switch for that, and no tags"
            )
        return self._render(messages, tools)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        plain = [self._with_calls(message) for message in plain_messages(messages)]
        given: dict[str, Any] = {**DEFAULTS, **self._tokens, **more}
        if tools and self.dialect and self._in_system:
            plain = _told_in_system(plain, tools)
        elif tools:
            given["tools"] = [tool.to_json() for tool in tools]
        try:
            return self._template.render(messages=plain, **given)
        except (jinja2.TemplateError, TypeError) as error:
            raise UsageError(
                f"the model's chat template refuses this conversation: {_line(error)}"
            ) from error
        except Exception as error:  # the template is the model's code and may raise anything
            raise UsageError(
                f"the model's chat template fails on this conversation: {_cause(error)}"
            ) from error

    def _with_calls(self, message: Message) -> Message:
        """A message's calls as this template takes them: arguments as a table or text; or in its content."""
        if not (calls := message.get("tool_calls")):
            return message
        called = [(call["function"]["name"], _arguments(call)) for call in calls]
        if "tool_calls" not in self._source:
            rest = {name: value for name, value in message.items() if name != "tool_calls"}
            return {**rest, "content": (message["content"] or "") + self.dialect.spell(called)}
        as_text = not _ARGUMENTS_AS_TABLE.search(self._source)
        shown = [
            {
                **call,
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments,
                },
            }
            for call, (name, arguments) in zip(calls, called, strict=True)
        ]
        # R1's templates show calls only of messages that say nothing else.
        content = None if "<｜tool▁call▁begin｜>" in self._source else message["content"] or ""
        return {**message, "content": content, "tool_calls": shown}


def _told_in_system(messages: list[Message], tools: Sequence[Tool]) -> list[Message]:
    """The messages, with the tools as JSON in the system message."""
    told = json.dumps([tool.to_json()["function"] for tool in tools], ensure_ascii=False)
    has_one = messages[0]["role"] == "system"
    system = messages[0] if has_one else {"role": "system", "content": ""}
    return [{**system, "tools": told}, *messages[has_one:]]


def _arguments(call: Mapping[str, Any]) -> Any:
    """Of a call whose arguments may be JSON text, as OpenAI's clients send them."""
    arguments = call["function"]["arguments"]
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def open_template(bundle: Bundle, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template of a bundle, if it has one. Raises BundleError."""
    source = bundle.text(CHAT_TEMPLATE)
    if source is None:
        return None
    defaults = bundle.manifest.generation
    thinks = any(map(tokenizer.knows, TAGS))
    return ChatTemplate(source, bos_token=defaults.bos_token, eos_token=defaults.eos_token, thinks=thinks)


def check_messages(messages: Sequence[Message]) -> None:
    """Each message needs a known role and a content. Raises UsageError naming the one that lacks it."""
    plain_messages(messages)


def plain_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages with contents as texts: OpenAI's clients send lists of parts. Raises UsageError."""
    if not messages:
        raise UsageError("a conversation needs at least one message")
    return [_plain(message, number) for number, message in enumerate(messages, 1)]


def _plain(message: Message, number: int) -> Message:
    if isinstance(message, Mapping) and message.get("tool_calls") and "content" not in message:
        message = {**message, "content": None}  # as OpenAI's clients leave it out
    if not isinstance(message, Mapping) or message.get("role") not in ROLES or "content" not in message:
        raise UsageError(
            f"message {number} must have a 'role' ({', '.join(ROLES)}) and a 'content', not {message!r}"
        )
    for call in message.get("tool_calls") or ():
        _check_call(call, number)
    content = message["content"]
    if isinstance(content, str) or (content is None and message["role"] == "assistant"):
        return message  # an assistant that only calls tools says nothing
    if not isinstance(content, Sequence):
        raise UsageError(f"message {number}: 'content' must be a text or a list of parts, not {content!r}")
    return {**message, "content": "".join(_part_text(part, number) for part in content)}


def _check_call(call: object, number: int) -> None:
    """Raise UsageError unless it is a call, with a name and with arguments that are a table or its JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    try:
        if isinstance(function, Mapping) and isinstance(function["name"], str):
            arguments = function["arguments"]
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
            if isinstance(parsed, Mapping):
                return
    except (KeyError, ValueError):
        pass
    raise UsageError(
        f"message {number}: a tool call must have a 'function' with a 'name' and 'arguments', not {call!r}"
    )


def _part_text(part: object, number: int) -> str:
    """The text of one part of a content, such as {"type": "text", "text": "Hi"}."""
    if not isinstance(part, Mapping) or not isinstance(kind := part.get("type"), str):
        raise UsageError(f"message {number}: a part of 'content' must have a 'type', not be {part!r}")
    if kind != "text":
        raise UsageError(f"message {number}: parts of type '{kind}' can't be read, only those of type 'text'")
    text = part.get("text")
    if not isinstance(text, str):
        raise UsageError(f"message {number}: the 'text' of a part must be a text, not {text!r}")
    return text


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what training counts: only its body is rendered."""

    tags = {"generation"}  # noqa: RUF012 - as its base declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {_line(error)}".removesuffix(": ")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
