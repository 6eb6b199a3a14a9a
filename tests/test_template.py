"""Chat templates run in a sandbox with what real templates use."""

import re

import pytest

from edgert.errors import BundleError, UsageError
from edgert.text.template import ChatTemplate
from edgert.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi"}]
BOS, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


def render(source, messages=HI, **tokens):
    return ChatTemplate(source, **tokens).render(messages)


@pytest.fixture
def r1(r1_config):
    return ChatTemplate(
        r1_config["chat_template"], bos_token=r1_config["bos_token"], eos_token=r1_config["eos_token"]
    )


def test_real_r1_template(r1):
    messages = [{"role": "system", "content": "Be brief."}, *HI]
    assert r1.render(messages) == f"{BOS}Be brief.<｜User｜>Hi<｜Assistant｜>"


def test_real_r1_template_drops_earlier_thoughts(r1):
    answered = {"role": "assistant", "content": "<think>\nHm.\n</think>Hello."}
    again = {"role": "user", "content": "Again"}
    assert (
        r1.render([*HI, answered, again])
        == f"{BOS}<｜User｜>Hi<｜Assistant｜>Hello.{END}<｜User｜>Again<｜Assistant｜>"
    )


def test_real_r1_prompt_has_one_bos(r1, r1_tokenizer):
    ids = Tokenizer(r1_tokenizer, bos_token_id=151646, add_bos=True).encode_rendered(r1.render(HI))
    assert ids[0] == 151646 and ids.count(151646) == 1
    assert ids[1] == 151644 and ids[-1] == 151645  # <｜User｜> … <｜Assistant｜>


def test_blocks_are_trimmed_as_transformers_does():
    assert (
        render("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}")
        == "Hi\n"
    )


def test_loop_controls():
    assert render("{% for m in messages %}{% break %}x{% endfor %}done") == "done"


def test_tojson_keeps_characters_and_indents():
    assert render("{{ {'a': '<ü>'} | tojson }}") == '{"a": "<ü>"}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"


def test_generation_marks_are_passed_through():
    """SmolLM3's template has them."""
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}!") == "Hi!"


def test_tools_and_documents_are_none_as_in_transformers():
    assert render("{% if tools is none and documents is none %}plain{% endif %}") == "plain"


def test_strftime_now():
    assert re.fullmatch(r"\d{4}", render("{{ strftime_now('%Y') }}"))


def test_python_string_methods():
    assert render("{{ messages[0]['content'].replace('H', 'h').rstrip('i') }}") == "h"


def test_a_template_may_refuse():
    with pytest.raises(UsageError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("attack", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_the_sandbox_holds(attack):
    with pytest.raises(UsageError, match="refuses this conversation"):
        render(attack)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ 1 / (messages | length - 1) }}", "ZeroDivisionError: division by zero"),
        ("{{ 10.0 ** 400 * messages | length }}", "OverflowError"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError: maximum"),
        ("{{ 'x'.encode('idna').decode('utf-16') }}", "UnicodeDecodeError"),
        ("{{ 'a' * 10 ** 18 }}", "MemoryError"),
        ("{{ '%d' % 'x' }}", "refuses"),
    ],
)
def test_a_template_that_fails_is_one_line(source, error):
    with pytest.raises(UsageError, match=error) as caught:
        render(source)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("the model's chat template ")


def test_a_refusal_of_several_lines_is_one_line():
    with pytest.raises(UsageError, match="conversation: roles must alternate$"):
        render("{{ raise_exception('roles must\n  alternate\n') }}")


def test_a_template_that_python_can_not_compile_is_broken():
    depth = 30
    with pytest.raises(BundleError, match="template is broken: "):
        ChatTemplate("{% for a in messages %}" * depth + "{% endfor %}" * depth)


def test_a_broken_template_names_its_line():
    with pytest.raises(BundleError, match="line 2"):
        ChatTemplate("fine\n{% if %}")


@pytest.mark.parametrize("bad", [[], [{"role": "user"}], [{"role": "robot", "content": "x"}], ["text"]])
def test_messages_are_checked(bad):
    with pytest.raises(UsageError, match="message"):
        render("x", bad)


def test_contents_in_parts_are_joined():
    """As OpenAI's clients send them."""
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "world"}]
    messages = [{"role": "system", "content": [parts[1]]}, {"role": "user", "name": "Ann", "content": parts}]
    template = "{% for m in messages %}{{ m.role + m.get('name', '') + ':' + m.content }};{% endfor %}"
    assert render(template, messages) == "system:world;userAnn:Hello, world;"
    assert messages[1]["content"] is parts  # the caller's own are left alone
    assert render("[{{ messages[0].content }}]", [{"role": "user", "content": []}]) == "[]"


def test_an_assistant_that_only_calls_tools_says_nothing():
    calls = [{"role": "assistant", "content": None, "tool_calls": []}]
    assert render("{{ messages[0].content is none }}", calls) == "True"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "data:"}}],
            "message 2: parts of type 'image_url' can't be",
        ),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], "message 2: parts of type 'input_audio'"),
        ([{"text": "a"}], "message 2: a part of 'content' must have a 'type', not be {'text': 'a'}"),
        (["a"], "message 2: a part of 'content' must have a 'type', not be 'a'"),
        ([{"type": "text", "text": 5}], "message 2: the 'text' of a part must be a text, not 5"),
        (5, "message 2: 'content' must be a text or a list of parts, not 5"),
        (None, "message 2: 'content' must be a text or a list of parts, not None"),
    ],
)
def test_contents_that_are_no_text_are_named(content, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        render("x", [*HI, {"role": "user", "content": content}])
