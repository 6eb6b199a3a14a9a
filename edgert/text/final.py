"""Final answer: what an answer comes to once the thinking is left out, and when two of them are equal."""

from __future__ import annotations

from edgert.text.thinking import ANSWERING

BOXED = r"\boxed{"  # where maths students are taught to put their result


def final_answer(text: str, thought: bool = False) -> str | None:
    """An answer without its thought, white space evened out.

    Students that close more than one thought answer after the last. `thought`: the model thought before.
    None: the thinking never came to an answer.
    """
    _, closed, final = text.rpartition(ANSWERING)
    final = " ".join(final.split())
    return final or (None if thought or closed else "")


def equal_finals(one: str | None, other: str | None) -> bool:
    """By the contents of \\boxed{} if both have one, otherwise by the text. None equals nothing."""
    if one is None or other is None:
        return False
    results = boxed(one), boxed(other)
    return one == other if None in results else results[0] == results[1]


def boxed(text: str) -> str | None:
    """Content of the last \\boxed{}, without white space; None if there is none or it doesn't close."""
    _, found, rest = text.rpartition(BOXED)
    depth = 1
    for i, character in enumerate(rest if found else ""):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return "".join(rest[:i].split())
    return None
