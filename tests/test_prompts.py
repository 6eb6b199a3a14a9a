"""Prompts of a file: lines or JSON lines, and what is wrong with others."""

import json

import pytest

import edgert
from edgert.text import prompts


def test_prompts_are_lines_or_json_lines():
    assert prompts.parse("\n one \r\n\ntwo\n", "f") == ["one", "two"]
    turns = [{"role": "user", "content": "three"}]
    answered = [*turns, {"role": "assistant", "content": "left out"}]
    lines = [{"prompt": "one\ntwo", "id": 7}, {"messages": turns}, {"messages": answered}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert prompts.parse(text, "f") == ["one\ntwo", turns, turns]
    assert prompts.parse('{"prompt": "a\u2028b"}', "f") == ["a\u2028b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "f: no prompts in it"),
        ('{"prompt": "a"}\n\n{"prompt"', "f, line 3: not JSON"),
        ('{"prompt": "a"}\nplain', "f, line 2: not JSON"),
        ('{"text": "a"}', 'f, line 1: needs {"prompt": TEXT}'),
        ('{"prompt": "a", "messages": []}', "one of the two"),
        ('{"prompt": 5}', 'f, line 1: "prompt" must be a text'),
        ('{"prompt": "a"}\n[1]', "f, line 2: needs"),
        ('{"messages": "hi"}', "f, line 1: .messages. must be a list"),
        ('{"messages": [{"role": "user"}]}', "f, line 1: message 1 must have"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "f, line 1: a conversation needs"),
    ],
)
def test_malformed_prompts_are_named_with_their_line(text, message):
    with pytest.raises(edgert.UsageError, match=message):
        prompts.parse(text, "f")


def test_titles_are_what_is_asked():
    asked = [
        {"role": "user", "content": [{"type": "text", "text": "one\n"}, {"type": "text", "text": "two"}]}
    ]
    assert prompts.title(asked) == prompts.title("one  two ") == "one two"
