"""Description: every address as an OpenAPI document, made from the bodies that they read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.routing import BaseRoute, Route

from edgert import __version__
from edgert.serve.endpoint import STATUSES, Endpoint
from edgert.serve.outgoing import JSON

Table = dict[str, Any]
REFERENCE = "#/components/schemas/{model}"
OBJECT = {JSON: {"schema": {"type": "object"}}}
ERROR = {JSON: {"schema": {"type": "object", "required": ["error"]}}}
BY_GUARD = (401, 403)


def description(routes: Iterable[BaseRoute], models: Iterable[str]) -> Table:
    """In OpenAPI 3.1, without routes that aren't `include_in_schema`. `models`: names of those served."""
    paths: Table = {}
    schemas: Table = {}
    for route in routes:
        if isinstance(route, Route) and route.include_in_schema:
            methods = sorted((route.methods or set()) - {"HEAD"})
            paths[route.path_format] = {method.lower(): _operation(route, schemas) for method in methods}
    for schema in schemas.values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"]["examples"] = [*models]
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgert serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],  # a key only where the server has one
    }


def _operation(route: Route, schemas: Table) -> Table:
    if isinstance(route.endpoint, Endpoint):
        return _posting(route.endpoint, schemas)
    told = inspect.getdoc(route.endpoint) or ""
    found = {"description": "as asked", "content": OBJECT}
    statuses = [*BY_GUARD, *((404,) if route.param_convertors else ())]
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.param_convertors
    ]
    return {
        "summary": told.splitlines()[0] if told else "",
        "parameters": named,
        "responses": {"200": found, **_errors(statuses)},
    }


def _posting(endpoint: Endpoint[Any], schemas: Table) -> Table:
    body = endpoint.body
    schema = body.model_json_schema(ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[_name(body)] = schema
    content: Table = dict(OBJECT)
    if "content" in body.model_fields or "stream" in body.model_fields:  # the page's, and others'
        content[endpoint.dialect.media_type] = {}  # OpenAPI 3.1 can't describe what a stream consists of
    asked = {"required": True, "content": {JSON: {"schema": {"$ref": REFERENCE.format(model=_name(body))}}}}
    statuses = [*BY_GUARD, *(status for _, status in STATUSES)]
    return {
        "summary": (inspect.getdoc(body) or "").splitlines()[0],
        "requestBody": asked,
        "responses": {"200": {"description": "the answer", "content": content}, **_errors(statuses)},
    }


def _name(body: type[Any]) -> str:
    """Two APIs have a ChatBody each."""
    return f"{body.__module__.split('.')[-2]}.{body.__name__}"


def _errors(statuses: Iterable[int]) -> Table:
    return dict(_each(statuses))


def _each(statuses: Iterable[int]) -> Iterator[tuple[str, Table]]:
    for status in sorted(set(statuses)):
        yield str(status), {"description": "refused, with the reason", "content": ERROR}
