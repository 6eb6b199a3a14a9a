"""Prompts to compare bundles on: those of a file, or a few of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from edgert.errors import UsageError
from edgert.text.template import Message, check_messages, plain_messages

# A user's question, or a conversation that ends with one.
Question: TypeAlias = str | Sequence[Message]

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
    try:
        return parse(path.read_text("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def parse(text: str, source: str) -> list[Question]:
    """One prompt per line, or JSON lines if the first begins with '{'; blank lines are skipped.

    JSON lines hold a "prompt" or "messages"; further keys, and an assistant's answer at the end of the
    messages, as in training data, are left out. Raises UsageError naming `source` and the line.
    """
    # Not splitlines: it would also split at U+2028 and the like, which JSON strings may hold.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{source}: no prompts in it; write one per line")
    if not lines[0][1].startswith("{"):
        return [line for _, line in lines]
    return [_from_json(line, f"{source}, line {number}") for number, line in lines]


def _from_json(line: str, where: str) -> Question:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error}), though the first line begins with '{{'") from error
    if not isinstance(entry, dict) or ("prompt" in entry) == ("messages" in entry):
        raise UsageError(f'{where}: needs {{"prompt": TEXT}} or {{"messages": [...]}}, one of the two')
    return _messages(entry["messages"], where) if "messages" in entry else _question(entry["prompt"], where)


def _question(prompt: object, where: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f'{where}: "prompt" must be a text that is not empty, not {prompt!r}')
    return prompt


def _messages(messages: object, where: str) -> list[Message]:
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
