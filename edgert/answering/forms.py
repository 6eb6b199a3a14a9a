"""Forms: what holds one answer to the form that its request asks for, or to calls of tools."""

from __future__ import annotations

from collections.abc import Sequence

from edgert.answering.answer import ReadCalls
from edgert.answering.request import Request
from edgert.text.grammar import Constraint, Grammars, thought_of
from edgert.text.template import ChatTemplate
from edgert.text.thinking import Thinking
from edgert.text.tokenizer import Tokenizer


class Forms:
    """A model's compiled grammars, its chat template, if it has one, and its tokenizer. For any thread."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, vocab: int, ends: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._grammars = Grammars(tokenizer, vocab, ends)

    def constraint(self, request: Request, thinking: Thinking) -> Constraint | None:
        """From where a thought can't be or has ended. Raises UsageError, MissingExtra."""
        grammar, after = request.grammar, None
        if request.tools and self._template:
            dialect = self._template.dialect
            grammar = dialect.grammar(request.callable_tools, self._tokenizer)
            after = dialect.begin + dialect.before if request.tool_choice == "auto" else None
        if grammar is None:
            return None
        thinks = thinking.channel != "answer" and request.thinking is not False
        thought = thought_of(self._tokenizer, thinking.channel == "thinking") if thinks else None
        return self._grammars.start(grammar, thought, after)

    def read_calls(self, request: Request) -> ReadCalls | None:
        """What reads the calls in an answer that may have some."""
        if not (request.tools and self._template):
            return None
        dialect, tokenizer = self._template.dialect, self._tokenizer
        return lambda ids: dialect.read(tokenizer.spell(ids))
