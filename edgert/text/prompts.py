"""Prompts to compare bundles on: those of a file, or a few of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from edgert.errors import UsageError
from edgert.text.template import Message, check_messages, plain_messages

# A user's question, or a conversation that ends with one.
Question: TypeAlias = str | Sequence[Message]

NEEDED = 'needs {"prompt": TEXT} or {"messages": [...]}, one of the two'

# Short, varied, and with one right answer where that is possible: facts, sums, logic, code, form, prose.
BUILT_IN: tuple[Question, ...] = (
    "What is the capital of France? Answer in one sentence.",
    "Why is the sky blue?",
    "What is 17 * 23? Think step by step and put the result in \\boxed{}.",
    "A train leaves at 14:35 and arrives at 17:10. How many minutes does the journey take?",
    "Anna is taller than Ben, and Ben is taller than Carla. Who is the shortest?",
    "If all roses are flowers and some flowers fade quickly, must some roses fade quickly? Explain.",
    "Solve 3x + 7 = 22 for x and put the result in \\boxed{}.",
    "Write a Python function that tells whether a word is a palindrome.",
    "Name three countries that border Switzerland, as a list.",
    "Translate into German: The weather is fine today.",
    "Explain in two sentences what photosynthesis is, to a child.",
    "Write the first four lines of a poem about the sea.",
)


def read(path: Path) -> list[Question]:
    """The prompts of a file. Raises UsageError, and OSError if it can't be read."""
    return parse(decoded(path.read_bytes(), path), str(path))


def decoded(content: bytes, path: Path) -> str:
    """The text of a file of prompts, with or without a byte order mark. Raises UsageError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def parse(text: str, source: str) -> list[Question]:
    """One prompt per line, or JSON lines if the first begins with '{'; blank lines are skipped.

    JSON lines hold a "prompt" or "messages"; further keys, and an assistant's answer at the end of the
    messages, as in training data, are left out. Raises UsageError naming `source` and the line.
    """
    lines = numbered(text, source)
    if not lines[0][1].startswith("{"):
        return [line for _, line in lines]
    places = ((line, f"{source}, line {number}") for number, line in lines)
    return [question(entry(line, where), where) for line, where in places]


def numbered(text: str, source: str) -> list[tuple[int, str]]:
    """The lines that aren't blank, each with its number from 1. Raises UsageError if there are none."""
    # Not splitlines: it would also split at U+2028 and the like, which JSON strings may hold.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{source}: no prompts in it; write one per line")
    return lines


def entry(line: str, where: str) -> dict[str, Any]:
    """The table that a JSON line holds. Raises UsageError naming `where` it stands."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}), though the first line begins with '{{'") from error
    if not isinstance(found, dict):
        raise UsageError(f"{where}: {NEEDED}")
    return found


def question(entry: Mapping[str, Any], where: str) -> Question:
    """What a JSON line asks. Raises UsageError naming `where` it stands."""
    if ("prompt" in entry) == ("messages" in entry):
        raise UsageError(f"{where}: {NEEDED}")
    return messages(entry["messages"], where) if "messages" in entry else _text(entry["prompt"], where)


def _text(prompt: object, where: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f'{where}: "prompt" must be a text that is not empty, not {prompt!r}')
    return prompt


def messages(messages: object, where: str) -> list[Message]:
    """Checked messages, without an answer at their end. Raises UsageError naming `where` they stand."""
    if not isinstance(messages, list):
        raise UsageError(f'{where}: "messages" must be a list, not {messages!r}')
    try:
        check_messages(messages)
        answered = messages[-1]["role"] == "assistant"
        check_messages(asked := messages[:-1] if answered else messages)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return asked


def title(prompt: Question) -> str:
    """What a prompt asks, in one line: its text, or its last message's."""
    text = prompt if isinstance(prompt, str) else str(plain_messages(prompt)[-1]["content"])
    return " ".join(text.split())
