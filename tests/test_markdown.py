"""Markdown as it streams: the same whatever the pieces, wrapped between words, styled if wanted."""

import random

import click
import pytest

from edgert.chat.markdown import Markdown, cells

TEXT = """\
# Why the sky is blue

Light is **scattered by** molecules; see `scatter()` and 2**3.

- Blue light has a short wavelength, and is scattered more than red light is.
12. Twelve
    indented

```python
def f(x):  # a line of code that is longer than the width stays as it is
    return x ** 2
```
| a table | is left alone, however long its rows may be for such a screen |
"""


def rendered(text, width=40, styled=True, cuts=0):
    markdown, dice = Markdown(width, styled=styled), random.Random(cuts)
    shown = ""
    while text:
        count = dice.randint(1, 5) if cuts else len(text)
        shown += markdown.push(text[:count])
        text = text[count:]
    return shown + markdown.flush()


@pytest.mark.parametrize("styled", [True, False])
@pytest.mark.parametrize("cuts", range(1, 6))
def test_pieces_make_no_difference(styled, cuts):
    assert rendered(TEXT, styled=styled, cuts=cuts) == rendered(TEXT, styled=styled)


def test_the_looks():
    lines = rendered(TEXT).splitlines()
    bold, code, dim = (click.style(text, **look) for text, look in LOOKS)
    assert click.unstyle(lines[0]) == "Why the sky is blue" and bold in lines[0]
    assert (
        click.unstyle(lines[2]) == "Light is scattered by molecules; see" and "\x1b[1mscattered" in lines[2]
    )
    assert click.unstyle(lines[3]) == "scatter() and 2**3." and code in lines[3]
    assert lines[5:8] == [
        "• Blue light has a short wavelength, and",
        "  is scattered more than red light is.",
        "12. Twelve",
    ]
    assert dim in lines and "    return x ** 2" in lines
    assert TEXT.splitlines()[-1] in lines and TEXT.splitlines()[9] in lines


LOOKS = (("Why", {"bold": True}), ("scatter()", {"fg": "cyan"}), ("```python", {"dim": True}))


def test_without_styles_only_the_line_ends_differ():
    plain = rendered(TEXT, styled=False)
    assert plain.split() == TEXT.split() and "\x1b" not in plain
    assert "# Why the sky is blue\n\nLight is **scattered by** molecules; see\n`scatter()`" in plain


def test_lines_keep_within_the_width():
    prose = "Molecules of the air scatter blue light more than they scatter red light. " * 5
    assert max(map(len, rendered(prose, 40).splitlines())) <= 40


def test_wide_and_combining_characters():
    assert cells("天空") == 4 and cells("e\u0301") == 1 and cells("abc") == 3
    assert rendered("天空 天空 天空", 10) == "天空 天空\n天空"


def test_marks_that_are_none():
    assert rendered("2 ** 3 is 8, 2**3 too; *** and a*b") == "2 ** 3 is 8, 2**3 too; *** and a*b"


def test_a_mark_that_is_never_closed_ends_with_its_line():
    assert rendered("**bold\nplain").endswith("\nplain")
