"""PromptEncoder: messages to token ids, where nothing that a message says can pass for a turn.

A chat template marks turns with added tokens, such as <|im_start|>. A user may type the same text, and a
tokenizer would make the same token of it. So the text of added tokens in a message becomes ordinary tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence, Set
from functools import cached_property
from typing import Any

from edgert.errors import UsageError
from edgert.text.template import ChatTemplate, Message, plain_messages
from edgert.text.tokenizer import Tokenizer
from edgert.text.tools import Tool

# Private characters, from the last one down: they stand for added tokens while a template is rendered.
STAND_INS = range(0x10FFFD, 0xFFFFF, -1)


class PromptEncoder:
    """A tokenizer and a chat template. What an assistant has said keeps its tokens, `</think>` say."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        # Added tokens of white space only can't forge anything.
        self._added = {token: text for token, text in tokenizer.added_tokens.items() if text.strip()}
        texts = sorted(self._added.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def encode(
        self,
        messages: Sequence[Message],
        *,
        special_tokens: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Token ids of the prompt for the next answer. Raises UsageError.

        `thinking`, `tools`: as in `ChatTemplate.render`.
        `special_tokens`: added tokens that messages spell are those tokens, as if the template had them.
        """
        messages = plain_messages(messages)
        stand_ins = {} if special_tokens else self._stand_ins(messages)
        if not stand_ins:
            return self._tokenizer.encode_rendered(self._template.render(messages, thinking, tools))
        marked = [
            {**message, "content": self._pattern.sub(lambda found: stand_ins[found[0]], message["content"])}
            if _may_forge(message)
            else message
            for message in messages
        ]
        return self._encode_marked(self._template.render(marked, thinking, tools), stand_ins)

    def _stand_ins(self, messages: Sequence[Message]) -> dict[str, str]:
        """A character that no message has, for the text of each added token that they spell."""
        found = {text for message in messages if _may_forge(message) for text in self._found(message)}
        said = "".join(message["content"] or "" for message in messages) if found else ""
        unused = (character for character in map(chr, STAND_INS) if character not in said)
        return dict(zip(sorted(found), unused, strict=False))

    def _found(self, message: Message) -> list[str]:
        found: list[str] = self._pattern.findall(message["content"])
        return found

    def _encode_marked(self, prompt: str, stand_ins: dict[str, str]) -> list[int]:
        """The ids of a prompt; between the template's own added tokens, ordinary ones where it is marked."""
        texts = str.maketrans({character: text for text, character in stand_ins.items()})
        ids: list[int] = []
        for part, own in self._parts(prompt):
            spelled = part.translate(texts)
            ids += own if spelled == part else self._encode_ordinary(spelled)
        return ids

    def _parts(self, prompt: str) -> Iterator[tuple[str, list[int]]]:
        """The added tokens of a prompt and what is between them, each with its ids."""
        between: list[int] = []
        start = 0
        for token, (first, last) in self._tokenizer.encode_spans(prompt):
            # The second question is for <unk>, which any character may have become.
            if token in self._added and self._added[token] in prompt[first:last]:
                yield prompt[start:first], between
                yield prompt[first:last], [token]
                between, start = [], last
            else:
                between.append(token)
        yield prompt[start:], between

    def _encode_ordinary(self, text: str) -> list[int]:
        ids = self._ordinary.encode_rendered(text)
        for token in ids:
            if token in self._added and self._added[token] in text:
                raise UsageError(
                    f"a message contains '{self._added[token]}', which has no ordinary tokens here"
                )
        return ids

    @cached_property
    def _ordinary(self) -> Tokenizer:
        """Made when it is first needed, which is seldom: a second for a vocabulary of 150,000 tokens."""
        return Tokenizer(without_tokens(self._tokenizer.to_json(), set(self._added.values())))


def without_tokens(source: str, texts: Set[str]) -> str:
    """A tokenizer.json that never makes the tokens of `texts` out of text that spells them."""
    table = json.loads(source)
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] not in texts]
    table["post_processor"] = None
    model = table["model"]
    if model["type"] == "BPE":  # GGUF's vocabularies have the added tokens among the others
        gone = texts - {model["unk_token"]}
        # Those that stay would be numbered anew were they not there.
        kept = {token["content"]: token["id"] for token in table["added_tokens"]}
        model["vocab"] = {text: token for text, token in model["vocab"].items() if text not in gone} | kept
        model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & texts]
    _never_prefix(table["pre_tokenizer"] or {})
    return json.dumps(table)


def _never_prefix(part: dict[str, Any]) -> None:
    """Metaspace puts a space before a text, but not before what follows the first token of a template."""
    if part.get("prepend_scheme") == "first":
        part["prepend_scheme"] = "never"
    for inner in part.get("pretokenizers", []):
        _never_prefix(inner)


def _may_forge(message: Message) -> bool:
    return bool(message["role"] != "assistant")
