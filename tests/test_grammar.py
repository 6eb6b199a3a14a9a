"""Answers of a given form: what the model writes parses and validates, whatever its weights."""

import asyncio
import json
import re
import sys

import jsonschema
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert.answering.request import Options
from edgert.cli import main
from edgert.export import ExportOptions, export
from edgert.text.grammar import FORMS, Constraint, Grammar, Grammars, Thought
from edgert.text.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
        "rating": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[A-F][+-]?$"}]},
    },
    "required": ["name", "age", "pets", "rating"],
    "additionalProperties": False,
}
PLATE = r"[A-Z]{1,3}-[0-9]{2,4}( E)?"
SUM = 'start: term ("+" term){1,3}\nterm: /[1-9][0-9]{0,2}/'


def tokens_of(grammars, grammar):
    """An answer of random tokens, each of those that are allowed."""
    constraint, chance, said = grammars.start(grammar), np.random.default_rng(1), []
    while not constraint.finished:
        token = int(chance.choice(np.flatnonzero(constraint.allowed())))
        assert constraint.permits(token)
        if token == 1:
            break
        constraint.accept(token)
        said.append(token)
    return said


def answers(model, count, **form):
    """At temperature 1, by many at once."""

    async def together():
        asked = (model.agenerate("fox", temperature=1.0, seed=seed, **form) for seed in range(count))
        return await asyncio.gather(*asked)

    return asyncio.run(together())


def test_answers_are_json_by_a_schema(model):
    validator = jsonschema.Draft202012Validator(PERSON)
    for reply in answers(model, 200, json_schema=PERSON):
        assert reply.finish_reason == "stop"
        validator.validate(reply.json())


def test_answers_match_a_regular_expression(model):
    for reply in answers(model, 200, regex=PLATE):
        assert reply.finish_reason == "stop" and re.fullmatch(PLATE, reply.text), reply.text


def test_answers_follow_a_grammar(model):
    for seed in range(30):
        reply = model.generate("fox", grammar=SUM, temperature=1.0, seed=seed)
        assert re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2}){1,3}", reply.text), reply.text


def test_the_likeliest_tokens_are_those_of_the_mask(model, monkeypatch):
    quick = model.generate("fox", json_schema=PERSON, temperature=0)
    monkeypatch.setattr(Constraint, "permits", lambda *_: False)
    assert quick.token_ids == model.generate("fox", json_schema=PERSON, temperature=0).token_ids
    jsonschema.validate(quick.json(), PERSON)


def test_the_same_seed_gives_the_same_answer_alone_and_among_others(model):
    alone = [model.generate("fox", json_schema=PERSON, temperature=1, seed=s).token_ids for s in range(6)]

    assert [reply.token_ids for reply in answers(model, 6, json_schema=PERSON)] == alone


def test_a_conversation_holds_its_answers_to_a_form(model):
    chat = model.conversation(json_schema=PERSON, temperature=1, seed=3)
    jsonschema.validate(chat.send("fox").reply.json(), PERSON)
    assert re.fullmatch("[ab]{4}", chat.send("dog", json_schema=None, regex="[ab]{4}").reply.text)


def test_an_answer_that_the_limit_cuts_says_so(model):
    reply = model.generate("fox", json_schema=PERSON, max_tokens=5)
    assert reply.finish_reason == "length"
    with pytest.raises(edgert.EdgertError, match=r"after 5 tokens \(length\)"):
        reply.json()
    assert model.generate("fox", regex="[0-9]{4}", max_tokens=4).finish_reason == "stop"  # just long enough


def test_json_of_an_answer_that_is_none(model):
    with pytest.raises(edgert.EdgertError, match="not JSON: .*json_schema="):
        model.generate("fox", regex="cat").json()


def test_a_pydantic_model_is_its_schema(model):
    class Person:
        @classmethod
        def model_json_schema(cls):
            return PERSON

    found = [model.generate("fox", json_schema=schema, seed=4, temperature=1) for schema in (Person, PERSON)]
    assert found[0].token_ids == found[1].token_ids


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"json_schema": {"type": "nonsense"}}, "json_schema: Invalid type: nonsense"),
        (
            {"json_schema": {"allOf": [{"type": "string"}, {"type": "null"}]}},
            "json_schema: Unsatisfiable schema",
        ),
        ({"json_schema": {"type": "string", "pattern": "("}}, r"json_schema: .*unclosed group"),
        ({"json_schema": {"type": "integer", "not": {}}}, 'json_schema: Unimplemented keys: \\["not"\\]'),
        ({"json_schema": "{}"}, "json_schema must be a dict or a pydantic model, not '{}'"),
        ({"json_schema": {"enum": [object]}}, "json_schema is not JSON"),
        ({"regex": "a("}, r"regex: .*unclosed group"),
        ({"regex": "a(?=b)"}, r"regex: .*look-around"),
        ({"regex": ""}, "regex must be a text that is not empty"),
        ({"grammar": "start: foo"}, 'grammar: .*unknown name: "foo"'),
        ({"regex": "a", "grammar": "start: foo"}, "regex and grammar are given"),
    ],
)
def test_what_can_not_be_is_an_error_before_anything_is_computed(model, monkeypatch, options, says):
    monkeypatch.setattr(model._worker, "submit", lambda _: pytest.fail("it computes"))
    chat = model.conversation()
    for ask in (model.generate, chat.send):
        with pytest.raises(edgert.UsageError, match=f"^{says}") as caught:
            ask("fox", **options)
        assert "\n" not in str(caught.value)
    assert chat.turns == []


def test_without_the_extra_it_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(edgert.MissingExtra, match=r"regex needs the \[json\] extra"):
        model.generate("fox", regex="never compiled before")


def test_a_form_is_compiled_once_per_model(monkeypatch):
    grammars, compiled = Grammars(Tokenizer(tiny.tokenizer().to_str()), 320, [1]), []
    compiling = Grammars._compile
    monkeypatch.setattr(Grammars, "_compile", lambda *given: compiled.append(given) or compiling(*given))
    grammar = Grammar("regex", "[a-c]{3,9}")
    first, second = tokens_of(grammars, grammar), tokens_of(grammars, grammar)
    assert first == second and len(compiled) == 1
    for number in range(70):
        grammars.start(Grammar("regex", f"a{{{number + 1}}}"))
    grammars.start(grammar)
    assert len(compiled) == 72  # the oldest of 64 made room


def test_ends_are_allowed_where_the_grammar_is_fulfilled():
    grammars = Grammars(Tokenizer(tiny.tokenizer().to_str()), 330, [1, 3])
    constraint = grammars.start(Grammar("regex", "[0-9]{1,2}"))
    digit = tiny.tokenizer().token_to_id("7")
    for ends in (False, True):
        mask = constraint.allowed()
        assert mask.shape == (330,) and not mask[320:].any() and not constraint.finished
        assert (
            [bool(mask[1]), bool(mask[3])] == [ends, ends] == [constraint.permits(1), constraint.permits(3)]
        )
        assert mask[digit] and not mask[[0, 2, 4]].any()
        constraint.accept(digit)
    assert constraint.finished


def test_the_thought_is_free_and_the_form_begins_after_it():
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    a, b, digit, separator = map(tokenizer.token_of, ("a", "b", "7", "Ċ"))
    opens, closes = 2, 3
    grammars = Grammars(tokenizer, 320, [1])

    def started(opens):
        return grammars.start(Grammar("regex", "[0-9]"), Thought(opens, closes, (separator,)))

    for constraint in (started(None), started(opens)):
        if constraint.permits(opens) and not constraint.permits(a):
            assert constraint.allowed()[[opens, digit, a]].tolist() == [True, True, False]
            constraint.accept(opens)
        for token in (a, b, separator, a):
            assert constraint.permits(token) and not constraint.permits(1) and not constraint.finished
            assert constraint.allowed().sum() == 319
            constraint.accept(token)
        constraint.accept(closes)
        assert constraint.permits(separator) and constraint.allowed()[separator]
        constraint.accept(separator)
        assert not constraint.permits(separator) and not constraint.allowed()[[separator, a]].any()
        constraint.accept(digit)
        assert constraint.finished
    direct = started(opens)  # no thought at all
    direct.accept(digit)
    assert direct.finished


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A tiny model whose tags are tokens, and whose template opens the thought."""
    folder = tmp_path_factory.mktemp("thinker")
    opened = tiny.TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|><think>\n{% endif")
    generation = {"do_sample": True, "temperature": 0.6}
    thinker = tiny.Tiny(overrides={"vocab_size": 322}, generation=generation, template=opened)
    source = tiny.write(folder / "c", thinker)
    made = tiny.tokenizer()
    made.add_tokens(["<think>", "</think>"])
    made.save(str(source / "tokenizer.json"))
    with edgert.load(
        export(source, folder / "b", ExportOptions(calibrate=False, verify=False)).folder
    ) as model:
        yield model


def test_a_thinking_model_answers_in_the_form(thinker):
    for seed in range(5):
        reply = thinker.generate("fox", thinking_budget=9, json_schema=PERSON, temperature=1, seed=seed)
        assert reply.finish_reason == "stop" and reply.thinking
        jsonschema.validate(reply.json(), PERSON)
        direct = thinker.generate("fox", thinking=False, json_schema=PERSON, temperature=1, seed=seed)
        assert direct.thinking == ""
        jsonschema.validate(direct.json(), PERSON)
    cut = thinker.generate("fox", max_tokens=9, json_schema=PERSON, temperature=1, seed=1)
    assert cut.finish_reason == "length" and cut.text == "" and len(cut.tokens) == 9


def test_on_the_command_line(bundles, tmp_path):
    folder, schema, lark = str(bundles()), tmp_path / "person.json", tmp_path / "sum.lark"
    schema.write_text(json.dumps(PERSON), "utf-8")
    lark.write_text(SUM, "utf-8")

    def answer(*options):
        return CliRunner().invoke(main, ["generate", folder, "-p", "fox", "--seed", "1", *map(str, options)])

    jsonschema.validate(json.loads(answer("--json-schema", schema).stdout), PERSON)
    assert re.fullmatch(PLATE, answer("--regex", PLATE).stdout.strip())
    assert "+" in answer("--grammar", lark).stdout
    cut = answer("--json-schema", schema, "--max-tokens", 4)
    assert "(cut off after 4 tokens, as asked)" in cut.stderr
    schema.write_text("{", "utf-8")
    broken = answer("--json-schema", schema)
    assert broken.exit_code == 2 and f"--json-schema: {schema} can't be read" in broken.stderr
    lark.write_bytes(b"\xff\xff\xff")
    assert f"--grammar: {lark} can't be read" in answer("--grammar", lark).stderr


def test_every_form_is_an_option():
    assert set(FORMS) <= set(Options.__annotations__)
