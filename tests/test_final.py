"""Final answers: after the thinking, in a box, and when two are the same."""

import pytest

from edgert.text.final import boxed, equal_finals, final_answer


@pytest.mark.parametrize(
    ("text", "thought", "final"),
    [
        ("It is  Paris.\n", False, "It is Paris."),
        ("Paris\n", True, "Paris"),
        ("no </think> yes", True, "yes"),
        ("", True, None),
        ("", False, ""),
        ("hm</think>\n", False, None),  # cut before the answer's first word
        ("R1 writes <think> first", False, "R1 writes <think> first"),
    ],
)
def test_final_answer(text, thought, final):
    assert final_answer(text, thought) == final


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{391}.", "391"),
        (r"\boxed{1} then \boxed{\frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{12", None),
        ("391", None),
    ],
)
def test_boxed(text, content):
    assert boxed(text) == content


def test_equal_finals():
    assert equal_finals(r"It is \boxed{x = 5}.", r"Thus \boxed{x=5}")
    assert not equal_finals(r"Thus \boxed{5}", r"Thus \boxed{6}")
    assert equal_finals("Paris", "Paris") and not equal_finals("Paris", r"\boxed{Paris}")
    assert not equal_finals(None, None)
