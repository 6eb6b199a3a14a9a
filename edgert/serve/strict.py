"""Strict: what the bodies of all requests have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Strict(BaseModel):
    """Fields of their own types only. What is unknown is refused by its name. null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        return {name: value for name, value in table.items() if value is not None}
