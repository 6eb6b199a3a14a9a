"""Grammar: what form an answer must have. Constraint: which tokens may come next for it to get there.

Compiled by llguidance. Nothing else here knows it.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgert.errors import EdgertError, EdgertWarning, MissingExtra, UsageError
from edgert.text.thinking import ANSWERING, THINKING
from edgert.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Mask: TypeAlias = npt.NDArray[np.bool_]
Form: TypeAlias = Literal["json_schema", "regex", "grammar", "tools"]
FORMS: tuple[Form, ...] = ("json_schema", "regex", "grammar")  # those that are options

# Between the parts of JSON: a space, or a new line and its indentation. Were any number of spaces allowed,
# small students would go on with them for ever.
SPACES = r" |\n {0,16}|\n\t{0,8}"
SEPARATOR = "\n\n"  # what models write between a thought and its answer
BLANKS = " \n\t▁ĠĊĉ"  # as vocabularies write them, too
MOST_KEPT = 64  # compiled grammars


@dataclass(frozen=True)
class Grammar:
    """The option that gave it, and its text: a JSON schema, a regular expression, or a grammar in Lark, as
    calls of tools have, too.
    """

    form: Form
    text: str


def read_grammar(options: Mapping[str, Any]) -> Grammar | None:
    """What one of the three options says, if any does. Raises UsageError; for several at once, too."""
    given = [form for form in FORMS if options.get(form) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are given: an answer has one form")
    form = given[0]
    value = options[form]
    if form == "json_schema":
        return Grammar(form, _schema_text(value))
    if not (isinstance(value, str) and value):
        raise UsageError(f"{form} must be a text that is not empty, not {value!r}")
    return Grammar(form, value)


def _schema_text(schema: Any) -> str:
    """The JSON of a schema: a table, or a pydantic model, which has one."""
    if callable(of_model := getattr(schema, "model_json_schema", None)):
        schema = of_model()
    if not isinstance(schema, Mapping | bool):
        raise UsageError(f"json_schema must be a dict or a pydantic model, not {schema!r}")
    try:
        return json.dumps(schema if isinstance(schema, bool) else dict(schema))
    except (TypeError, ValueError) as error:
        raise UsageError(f"json_schema is not JSON: {error}") from error


@dataclass(frozen=True)
class Thought:
    """How an answer with a thought begins, in tokens. Until `closes` has come, anything goes.

    `opens`: the token by which the model may open a thought; None where the prompt has opened it.
    `separator`: tokens that may come between the thought and the answer.
    """

    opens: int | None
    closes: int
    separator: tuple[int, ...]


@dataclass(frozen=True)
class Trigger:
    """Tokens that begin the form, as the answer's first or anywhere. Until then the answer is free."""

    tokens: frozenset[int]
    anywhere: bool


def trigger_of(tokenizer: Tokenizer, text: str) -> Trigger:
    """What begins a form that begins with this text: its added token if it has one, else any token with its
    first character, where the answer begins.
    """
    for token, content in tokenizer.added_tokens.items():
        if text.startswith(content):
            return Trigger(frozenset((token,)), anywhere=True)
    found = (
        token for piece, token in tokenizer.vocabulary.items() if piece.lstrip(BLANKS).startswith(text[0])
    )
    return Trigger(frozenset(found), anywhere=False)


def thought_of(tokenizer: Tokenizer, opened: bool) -> Thought:
    """How thoughts begin and end with this tokenizer. Raises UsageError if its tags are no tokens."""
    opens, closes = (tokenizer.token_of(tag) for tag in (THINKING, ANSWERING))
    if opens is None or closes is None:
        raise UsageError(
            "this model's thoughts end at no token of their own, after which a form could begin: "
            "add thinking=False"
        )
    return Thought(None if opened else opens, closes, tuple(tokenizer.encode_rendered(SEPARATOR)))


class Constraint:
    """A grammar at work on one answer. Tokens that end an answer are allowed where the grammar is fulfilled,
    and nowhere else.

    `ends`: those tokens; the thought must not have them. `trigger`: what the form waits for. Until then it is
    no part of the answer, and nothing but an answer of that form begins with the trigger.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocab: int,
        ends: Iterable[int],
        thought: Thought | None = None,
        trigger: Trigger | None = None,
    ) -> None:
        self._matcher = matcher
        self._vocab = vocab
        self._ends = list(ends)
        self._thought = thought
        self._trigger = trigger  # until it has come
        self._free = False  # from an answer's first token on, if that did not begin the form
        self.begun = False
        self._thinks = thought is not None and thought.opens is None
        # Tokens that may come now, the first of them first, and are no part of the form.
        self._before: tuple[int, ...] = (thought.opens,) if thought and thought.opens is not None else ()

    @property
    def finished(self) -> bool:
        """Whether the form is complete, and nothing can follow."""
        return self.begun and bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def loose(self) -> bool:
        """Whether nearly all tokens may come: it is quicker to choose one and to ask about that."""
        return self._thinks or self._free or self._trigger is not None

    def permits(self, token: int) -> bool:
        """Whether this token may come next: much quicker than to look at all of them."""
        if self._thinks:
            return token not in self._ends
        if self._free or (self._trigger and token not in self._trigger.tokens):
            return True
        return token in self._before[:1] or self._fits(token)

    def allowed(self) -> Mask:
        """Which tokens may come next (vocab,). Raises EdgertError where a grammar is too much to follow."""
        if self._thinks:
            mask = np.ones(self._vocab, np.bool_)
            mask[self._ends] = False
            return mask
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(packed, bitorder="little", count=self._vocab).view(np.bool_)
        self._check()
        if self._free or self._trigger:
            begins = list(self._trigger.tokens) if self._trigger else []
            fitting = mask[begins]
            mask[:] = True
            mask[begins] = fitting
        mask[list(self._before[:1])] = True
        return mask

    def accept(self, token: int) -> None:
        """The answer goes on with a token. Raises EdgertError where a grammar is too much to follow."""
        thought, before, self._before = self._thought, self._before, ()
        if self._thinks:
            if thought and token == thought.closes:
                self._thinks, self._before = False, thought.separator
        elif token in before[:1]:
            self._before = before[1:]
            self._thinks = thought is not None and token == thought.opens
        elif self._trigger and token not in self._trigger.tokens:
            if not self._trigger.anywhere:
                self._trigger, self._free = None, True
        elif not self._free:
            self._trigger, self.begun = None, True
            self._matcher.consume_token(token)
            self._check()

    def _fits(self, token: int) -> bool:
        ending = token in self._ends and self._matcher.is_accepting()
        return bool(ending or self._matcher.validate_tokens([token]) == 1)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EdgertError(f"the answer's form can't be followed further: {_line(self._matcher)}")


class Grammars:
    """What a model has compiled so far: the next answer of the same form starts at once. For any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._ends = tuple(ends)
        self._trie: LLTokenizer | None = None
        self._compiled: dict[Grammar, LLMatcher] = {}
        self._triggers: dict[str, Trigger] = {}
        self._lock = threading.Lock()

    def start(self, grammar: Grammar, thought: Thought | None = None, after: str | None = None) -> Constraint:
        """For one answer; `after`: the text that a form begins with which may come or not. Raises UsageError
        for what can't be, MissingExtra.
        """
        with self._lock:
            if grammar not in self._compiled:
                matcher = self._compile(grammar)
                while len(self._compiled) >= MOST_KEPT:
                    del self._compiled[next(iter(self._compiled))]
                self._compiled[grammar] = matcher
            if after and after not in self._triggers:
                self._triggers[after] = trigger_of(self._tokenizer, after)
            trigger = self._triggers[after] if after else None
            return Constraint(self._compiled[grammar].deep_copy(), self._vocab, self._ends, thought, trigger)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise MissingExtra(grammar.form, "json") from error
        if grammar.form == "json_schema":
            source = LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_pattern": SPACES})
        elif grammar.form == "regex":
            source = LLMatcher.grammar_from_regex(grammar.text)
        else:
            source = LLMatcher.grammar_from_lark(grammar.text)
        matcher = LLMatcher(self._tokens(), source, log_level=0)
        if matcher.is_error():
            raise UsageError(f"{grammar.form}: {_line(matcher)}")
        for warning in matcher.get_grammar_warnings():
            warnings.warn(f"{grammar.form}: {warning}", EdgertWarning, stacklevel=2)
        return matcher

    def _tokens(self) -> LLTokenizer:
        """The vocabulary as llguidance looks at it. Seconds for one of 150,000 tokens, so it is made once."""
        from llguidance import LLTokenizer

        if not self._ends:
            raise UsageError("this bundle names no token that ends an answer, so no form can end")
        if self._trie is None:
            size = max(self._vocab, len(self._tokenizer.vocabulary))
            self._trie = LLTokenizer(self._tokenizer.to_json(), n_vocab=size, eos_token=list(self._ends))
        return self._trie


def _line(matcher: LLMatcher) -> str:
    """What llguidance says, in one line: without its drawings of the place."""
    said = matcher.get_error()
    reasons = [line.removeprefix("error:").strip() for line in said.splitlines() if line.startswith("error:")]
    return " ".join([said.splitlines()[0].removesuffix("regex parse error:").strip(), *reasons])
