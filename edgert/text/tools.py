"""Tool: a function that a model may call, as its chat template is told. Made from Python or from JSON."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from edgert.errors import UsageError

# A function with annotations, the table that OpenAI's clients send, or a tool.
AnyTool: TypeAlias = "Callable[..., Any] | Mapping[str, Any] | Tool"
Schema: TypeAlias = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
KINDS: Mapping[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}


@dataclass(frozen=True)
class Tool:
    """A function's name, what it does, and the JSON schema of its arguments, an object.

    `function` is what `Conversation.send` runs; without one a call is left to you.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            raise UsageError(f"a tool's name must be letters, digits and _ . - only, not {self.name!r}")
        if not (isinstance(self.parameters, Mapping) and self.parameters.get("type") == "object"):
            raise UsageError(f'tool {self.name}: \'parameters\' must be a JSON schema with "type": "object"')

    @property
    def schema(self) -> Schema:
        """Of the arguments. Those that it doesn't name are not allowed, unless it says otherwise."""
        return {"properties": {}, "additionalProperties": False, **self.parameters}

    def to_json(self) -> dict[str, Any]:
        """As chat templates take it, and OpenAI's clients send it."""
        about = {"name": self.name, "description": self.description}
        return {
            "type": "function",
            "function": {**about, "parameters": {"properties": {}, **self.parameters}},
        }

    def run(self, arguments: Mapping[str, Any]) -> str:
        """What the function returns, as the model reads it: text as it is, all else as JSON. An error is
        text, too, so that the model can mend its call.
        """
        if self.function is None:
            raise UsageError(f"tool {self.name} has no function to run")
        try:
            result = self.function(**arguments)
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        except Exception as error:  # noqa: BLE001 - it is the function's, and goes to the model
            return f"error: {type(error).__name__}: {error}"


def read_tools(given: object) -> tuple[Tool, ...]:
    """Tools of functions and tables. Raises UsageError, also where two have one name."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise UsageError(f"tools must be a list of functions or tables, not {given!r}")
    tools = tuple(map(read_tool, given))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"tools: two are called {name}")
    return tools


def read_tool(given: AnyTool) -> Tool:
    """A function's name, annotations and docstring, or what a table says. Raises UsageError."""
    if isinstance(given, Tool):
        return given
    if isinstance(given, Mapping):
        about = given.get("function", given)
        if not isinstance(about, Mapping) or "name" not in about:
            raise UsageError(f"a tool must have a 'name', 'description' and 'parameters', not {given!r}")
        return Tool(
            about["name"], about.get("description") or "", about.get("parameters") or Tool("_").parameters
        )
    if not callable(given):
        raise UsageError(f"a tool must be a function or a table, not {given!r}")
    return _of_function(given)


def _of_function(function: Callable[..., Any]) -> Tool:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(f"tool {name}: its annotations can't be read: {error}") from error
    description, of_parameters = _read_docstring(inspect.getdoc(function) or "")
    properties: Schema = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        place = f"tool {name}: its parameter {parameter.name}"
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(f"{place} can't be passed by name")
        if parameter.name not in hints:
            raise UsageError(f"{place} needs an annotation, such as {parameter.name}: str")
        schema = schema_of(hints[parameter.name], place)
        if text := of_parameters.get(parameter.name):
            schema.setdefault("description", text)
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, "required": required}
    return Tool(name, description, parameters, function)


def schema_of(annotation: Any, place: str) -> Schema:
    """The JSON schema of a type. `Annotated[str, "what it is", {"maxLength": 40}]` adds to it.

    Raises UsageError, which begins with `place`, for types that JSON doesn't have.
    """
    if annotation is Any:
        return {}
    origin = get_origin(annotation)
    if origin is None and annotation in KINDS:
        return {"type": KINDS[annotation]}
    schema = _of_parts(origin, get_args(annotation), place)
    if schema is None:
        raise UsageError(f"{place} has a type that JSON doesn't have: {annotation!r}")
    return schema


def _of_parts(origin: Any, inner: tuple[Any, ...], place: str) -> Schema | None:
    if origin is Annotated:
        described = schema_of(inner[0], place)
        for more in inner[1:]:
            described |= {"description": more} if isinstance(more, str) else more
        return described
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, place) for one in inner]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], place)}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": schema_of(inner[1], place)}
    return None


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Its first paragraph, and what lines such as `city: where it is` say of parameters."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    lines = re.findall(r"^\s*(?::param )?(\w+)(?: \([^)\n]*\))?: +(\S.*)$", text, flags=re.MULTILINE)
    return paragraph, dict(lines)
