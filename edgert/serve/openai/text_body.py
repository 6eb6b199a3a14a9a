"""TextBody: a request to `/v1/completions`, the API from before there were messages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from edgert.errors import UsageError
from edgert.model import Model
from edgert.serve.desk import Question
from edgert.serve.openai.body import Body

Texts = str | list[str] | list[int] | list[list[int]]


class TextBody(Body):
    """A text to go on with, as it is or as token ids: no chat template touches it."""

    prompt: Texts
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None

    @field_validator("prompt")
    @classmethod
    def _one_text(cls, prompt: Texts) -> Texts:
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) and len(prompt) > 1:
            raise ValueError("only one text is answered per request; ask several times for more")
        return prompt

    def question(self) -> Question:
        """What it asks. Raises UsageError."""
        return Question(self.model, self._tokens, self.options())

    def options(self) -> dict[str, Any]:
        options = super().options()
        return options if self.logprobs is None else {**options, "logprobs": self.logprobs}

    def _tokens(self, model: Model) -> list[int]:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return model.tokenizer.encode(prompt)
        ids = [token for token in prompt if isinstance(token, int)]
        if not ids:
            raise UsageError("prompt: it is empty")
        return ids
