"""Thoughts are told from answers, wherever the text is cut; templates do with them what they always did."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jinja2.sandbox
import pytest
import tiny

import edgert
from edgert.answering import reply as replies
from edgert.answering.budget import CLOSING, Budget, parse_budget
from edgert.chat.notices import as_flag, cut_notice
from edgert.export import ExportOptions, export
from edgert.text.sampler import SampledToken, Sampler, Sampling
from edgert.text.template import ChatTemplate
from edgert.text.thinking import Thinking, opening, without_thought
from edgert.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi"}]
END = "<｜end▁of▁sentence｜>"

# In Qwen3's way: a switch that closes the thought before it begins, earlier thoughts are left out.
SWITCHED = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' + message.role + '|>' + content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


def split(pieces, opened="", **more):
    """Thought and answer of a text that arrives in pieces, and the text for the next prompt."""
    thinking, parts = Thinking(opened, **more), {"thinking": "", "answer": ""}
    for channel, text in [*map(thinking.push, pieces), thinking.flush()]:
        parts[channel] += text
    return parts["thinking"], parts["answer"], thinking.whole(parts["answer"])


@pytest.mark.parametrize(
    ("text", "opened", "thought", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nBlue.\n", "", "Hm.", "Blue.\n"),
        ("Hm.\n</think>\n\nBlue.", "<think>\n", "Hm.", "Blue."),
        ("\n <think>Hm.</think>Blue.", "", "Hm.", "Blue."),
        ("<think>\n\n</think>\n\nBlue.", "", "", "Blue."),
        ("Hm.\n\nHm.</think> </think>", "<think>", "Hm.\n\nHm.", " </think>"),
        ("R1 writes <think> first.</think>", "", "", "R1 writes <think> first.</think>"),
        ("\n\nBlue.", "", "", "\n\nBlue."),
        ("<thin", "", "", "<thin"),
        ("<think", "", "", "<think"),
        ("", "", "", ""),
        ("Hm. 3 </thin", "<think>\n", "Hm. 3 </thin", ""),
        ("<think>Hm.\n\n", "", "Hm.", ""),
        ("a\n\nb\n</thinker></think>c", "<think>\n", "a\n\nb\n</thinker>", "c"),
    ],
)
def test_thought_and_answer_wherever_the_text_is_cut(text, opened, thought, answer):
    assert split([text], opened)[:2] == (thought, answer)
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = [text[:first], text[first:second], text[second:]]
            assert split(pieces, opened)[:2] == (thought, answer), pieces
    assert split(text, opened)[:2] == (thought, answer)


def test_any_text_in_any_pieces():
    chance = random.Random(7)
    for _ in range(3000):
        text = "".join(
            chance.choices(["<think>", "</think>", "</", "think>", "<", "\n", " ", "a", "é🦊"], k=9)
        )
        opened = chance.choice(["", "<think>\n"])
        cuts = sorted(chance.choices(range(len(text) + 1), k=chance.randrange(9)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        thought, answer, whole = split(pieces, opened)
        assert (thought, answer, whole) == split([text], opened), (text, opened, pieces)
        assert whole.startswith(opened + text) or whole == opened + text  # a thought that was cut is closed
        assert split([text], thinks=False) == ("", text, text)


def test_text_is_held_back_only_while_it_may_be_a_tag():
    thinking = Thinking("<think>\n")
    assert thinking.push("Hm. 1 <") == ("thinking", "Hm. 1 ")
    assert thinking.push(" 2\n") == ("thinking", "< 2")
    assert thinking.push("so") == ("thinking", "\nso")
    assert thinking.push("</think>") == ("thinking", "")
    assert thinking.push("\n\n") == ("answer", "")
    assert thinking.push("Blue\n<think>") == ("answer", "Blue\n<think>")


def test_the_prompt_tells_whether_it_opened_a_thought():
    assert opening("<｜Assistant｜><think>\n") == "<think>\n"
    assert opening("<think> is a tag.<｜Assistant｜>") == ""
    assert opening("<think>\n\n</think>\n\n") == ""


@pytest.fixture(params=["written by the model", "opened by the template"])
def r1_source(r1_config, request):
    """The real template, as it was first published and as it is now."""
    source = r1_config["chat_template"]
    if request.param == "opened by the template":
        now = source.replace("{{'<｜Assistant｜>'}}{% endif %}", "{{'<｜Assistant｜><think>\\n'}}{% endif %}")
        assert now != source
        return now
    return source


def plain(source, messages, **more):
    """As transformers renders it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(messages=messages, add_generation_prompt=True, **more)


def test_r1_prompts_are_those_of_plain_jinja(r1, r1_source, r1_config, monkeypatch):
    """Three turns; the thought is in the message, and the template drops it."""
    bos = r1_config["bos_token"]
    template = ChatTemplate(r1_source, bos_token=bos, eos_token=END)
    monkeypatch.setattr(r1._prompts, "_template", template)
    opened = opening(template.render(HI))
    told, chat = [], r1.conversation("Be brief.")
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(told.pop(0)))
    said = []
    for number in range(3):
        thought, answer = f"Hm {number}.\nIs it\n\nblue?", f"Blue, {number} times.\n"
        written = f"{thought}\n</think>\n\n{answer}"
        told += [*r1.tokenizer.encode_rendered(written if opened else f"<think>\n{written}"), 151643]
        asked = [*chat.messages, {"role": "user", "content": f"Why {number}?"}]
        stream = chat.send(f"Why {number}?")
        expected = plain(r1_source, asked, bos_token=bos, eos_token=END)
        assert stream._sequence.tokens[: len(r1.tokenizer.encode_rendered(expected))] == (
            r1.tokenizer.encode_rendered(expected)
        )
        assert (stream.reply.thinking, stream.reply.text) == (thought, answer)
        assert chat.turns[-1]["content"] == f"<think>\n{written}"
        said.append(f"<｜Assistant｜>\n\n{answer}{END}")
        assert expected.endswith(f"<｜User｜>Why {number}?<｜Assistant｜>{opened}")
    assert "".join(said[:2]) not in expected and all(turn in expected for turn in said[:2])
    assert "Hm" not in expected


@pytest.fixture
def told(monkeypatch):
    """Tokens that models then choose, one after the other."""
    tokens = []
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(tokens.pop(0)))
    return tokens


THOUGHT = "<think>\nLight is\nscattered.\n</think>\n\nAir scatters it."


def test_chunks_and_timings_tell_both_parts(r1, told):
    ids = r1.tokenizer.encode_rendered(THOUGHT)
    told += [*ids, 151643]
    chunks = list(stream := r1.stream("Why?"))
    reply = stream.reply
    assert (reply.thinking, reply.text) == ("Light is\nscattered.", "Air scatters it.")
    assert reply.token_ids == tuple(ids) and reply.finish_reason == "stop"
    closed = ids.index(151649) + 1
    assert [chunk.channel for chunk in chunks[:closed]] == ["thinking"] * closed
    assert {chunk.channel for chunk in chunks[closed:]} == {"answer"}
    timings = reply.timings
    assert (timings.thinking_tokens, timings.answer_tokens) == (closed, len(ids))
    assert 0 < timings.thinking_s < timings.decode_s


def test_every_border_between_tokens(r1, told):
    """A token for each byte of the text, so that tags come in seven pieces and more."""
    vocabulary = r1.tokenizer.vocabulary
    text = THOUGHT.replace(" ", "Ġ").replace("\n", "Ċ")
    told += [*(vocabulary[character] for character in text), 151643]
    reply = r1.generate("Why?")
    assert (reply.thinking, reply.text) == ("Light is\nscattered.", "Air scatters it.")


def test_a_thought_that_is_cut_has_no_answer(r1, told):
    ids = r1.tokenizer.encode_rendered(THOUGHT)
    told += [*ids, 151643]
    chat = r1.conversation()
    reply = chat.send("Why?", max_tokens=5).reply
    assert reply.finish_reason == "length" and reply.text == ""
    assert reply.thinking == r1.tokenizer.decode(ids[2:5]).strip("\n")
    # It is closed in the history, where R1's template would take it for an answer otherwise.
    assert chat.turns[-1]["content"].startswith("<think>\nLight")
    assert chat.turns[-1]["content"].endswith("\n</think>\n\n")
    assert "Light" not in r1.template.render([*chat.messages, *HI])


def test_a_thought_that_is_stopped_is_one(r1, told):
    told += r1.tokenizer.encode_rendered("<think>\n") + [1000] * 1500
    with r1.stream("Why?") as stream:
        for _ in range(6):
            next(stream)
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.thinking and not stream.reply.text


def test_stop_strings_end_the_answer_only(r1, told):
    told += [*r1.tokenizer.encode_rendered("<think>\nThe END?\n</think>\n\nIt is the END."), 151643]
    chat = r1.conversation(stop="END")
    reply = chat.send("Why?").reply
    assert (reply.thinking, reply.text, reply.finish_reason) == ("The END?", "It is the ", "stop")
    assert chat.turns[-1]["content"] == "<think>\nThe END?\n</think>\n\nIt is the "


def test_a_thought_that_goes_round_is_a_loop(r1, told):
    told += r1.tokenizer.encode_rendered("<think>\n") + [1000, 1001] * 300
    reply = r1.generate("Why?", stop_loops=True)
    assert reply.finish_reason == "loop" and reply.thinking and not reply.text


def test_tags_that_a_vocabulary_calls_special_are_text(r1, r1_tokenizer):
    hides = json.loads(r1_tokenizer)
    for token in hides["added_tokens"]:
        token["special"] = token["special"] or "think>" in token["content"]
    tokenizer = Tokenizer(json.dumps(hides))
    ids = tokenizer.encode_rendered(THOUGHT + END)
    assert ids == r1.tokenizer.encode_rendered(THOUGHT + END)
    assert tokenizer.decode(ids) == "".join(map(tokenizer.stream().push, ids)) == THOUGHT


def test_the_text_after_token_ids_is_left_as_it_is(r1, told):
    told += [*r1.tokenizer.encode_rendered(THOUGHT), 151643]
    reply = r1.generate(r1.tokens_of("Why?"))
    assert (reply.thinking, reply.text) == ("", THOUGHT)


def test_an_ordinary_model_may_write_the_tags(model, told):
    told += [*model.tokenizer.encode_rendered(THOUGHT), 1]
    reply = model.generate("fox")
    assert (reply.thinking, reply.text, reply.timings.thinking_tokens) == ("", THOUGHT, 0)
    assert model.tokens_of("fox", thinking=False) == model.tokens_of("fox")
    with pytest.raises(edgert.UsageError, match="this model doesn't think"):
        model.generate("fox", thinking=True)


@pytest.mark.parametrize("bad", ["off", 2, 0.0])
def test_a_switch_is_on_off_or_neither(model, bad):
    with pytest.raises(edgert.UsageError, match="thinking must be True, False or None"):
        model.generate("fox", thinking=bad)


def test_r1_is_told_to_think_or_not(r1_source):
    """It has no switch: its thought is opened, or opened and closed."""
    template = ChatTemplate(r1_source)
    assert template.render(HI, True).endswith("<｜Assistant｜><think>\n")
    assert template.render(HI, False).endswith("<｜Assistant｜><think>\n\n</think>\n\n")
    assert template.render(HI) == plain(r1_source, HI)


def test_an_r1_that_is_told_not_to_think_answers(r1, told):
    told += [*r1.tokenizer.encode_rendered("Blue."), 151643]
    reply = r1.generate("Why?", thinking=False)
    assert (reply.thinking, reply.text, reply.timings.thinking_tokens) == ("", "Blue.", 0)
    assert r1.tokenizer.decode(r1.tokens_of("Why?", thinking=False)).endswith("<think>\n\n</think>\n\n")


def test_raw_text_has_no_switch(r1):
    with pytest.raises(edgert.UsageError, match="thinking is for prompts that a chat template makes"):
        r1.generate([5, 6], thinking=False)


@pytest.fixture(scope="module")
def switched(tmp_path_factory):
    """A tiny model whose template has Qwen3's switch; its tokenizer spells tags in pieces."""
    folder = tmp_path_factory.mktemp("switched")
    source = tiny.write(folder / "c", tiny.Tiny("qwen3", generation={"temperature": 0.6}))
    (source / "chat_template.jinja").write_text(SWITCHED)
    bundle = export(source, folder / "b", ExportOptions(calibrate=False, verify=False)).folder
    with edgert.load(bundle) as model:
        yield model


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_template_with_a_switch(switched, told, thinking):
    chat = switched.conversation(thinking=thinking)
    for thought in ("Hm.", "Hm again."):
        written = "Blue." if thinking is False else f"<think>\n{thought}\n</think>\n\nBlue."
        told += [*switched.tokenizer.encode_rendered(written), 1]
        asked = [*chat.messages, *HI]
        stream = chat.send("Hi")
        given = {} if thinking is None else {"enable_thinking": thinking}
        expected = switched.tokenizer.encode_rendered(plain(SWITCHED, asked, **given))
        reply = stream.reply
        assert stream._sequence.tokens[: reply.timings.prompt_tokens] == expected
        assert (reply.thinking, reply.text) == ("" if thinking is False else thought, "Blue.")
        assert chat.turns[-1]["content"] == written


def test_turns_of_a_template_that_keeps_thoughts_find_their_cache(switched, told, monkeypatch):
    """What is remembered is what the model wrote, to the letter."""
    kept = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    monkeypatch.setattr(switched._prompts, "_template", ChatTemplate(kept, thinks=True))
    chat = switched.conversation()
    told += [*switched.tokenizer.encode_rendered(THOUGHT), 1]
    first = chat.send("Hi").reply.timings
    told += [*switched.tokenizer.encode_rendered("Blue."), 1]
    second = chat.send("Again").reply.timings
    assert second.cached_tokens >= first.prompt_tokens + first.answer_tokens - 2


def test_the_answer_alone_of_what_was_written():
    assert without_thought(THOUGHT) == "Air scatters it."
    assert without_thought("<think>\nHm.") == ""
    assert without_thought("Air.\n<think>") == "Air.\n<think>"


@pytest.fixture
def endless(r1, monkeypatch):
    """A model that thinks until somebody closes its thought, and then answers."""
    closed, ends = r1.tokenizer.encode_rendered("</think>")[0], 151643
    thought = r1.tokenizer.encode_rendered("<think>\nWait, let me see.")
    answer = [*r1.tokenizer.encode_rendered("It is 4."), ends]

    def choose(_, __, history):
        said = history.answer
        if closed in said:
            return SampledToken(answer[len(said) - said.index(closed) - 2])
        return SampledToken(thought[len(said) % len(thought)])

    monkeypatch.setattr(Sampler, "choose", choose)
    return r1


def test_a_budget_in_tokens(endless):
    chat = endless.conversation(thinking_budget=40)
    chunks = list(stream := chat.send("What is 2 + 2?"))
    reply, closing = stream.reply, endless.tokenizer.encode_rendered(CLOSING)
    assert reply.finish_reason == "stop" and reply.text == "It is 4."
    assert reply.thinking.endswith("have to give the solution based on the thinking directly now.")
    assert list(reply.token_ids[40 : 40 + len(closing)]) == closing
    assert (
        reply.timings.thinking_tokens == 40 + len(closing) - 1
    )  # the newlines after the tag are not thought
    assert reply.timings.answer_tokens == len(chunks) - 1 == len(reply.token_ids)
    assert "limited time" not in endless.template.render([*chat.messages, *HI])


def test_a_budget_in_seconds(endless, monkeypatch):
    """A token takes a second here."""
    now, choose = [1000.0], Sampler.choose
    monkeypatch.setattr(replies, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(*given):
        now[0] += 1
        return choose(*given)

    monkeypatch.setattr(Sampler, "choose", slow)
    reply = endless.generate("What is 2 + 2?", thinking_budget="20s")
    assert reply.text == "It is 4." and reply.timings.thinking_s == 20
    assert (
        reply.token_ids.index(endless.tokenizer.encode_rendered(CLOSING)[0]) == 21
    )  # after 20 s since the first


def test_what_follows_a_closed_thought_is_computed_right(r1):
    """And is the same beside others; without chance, the model's own noise."""
    asked = {"thinking": True, "thinking_budget": 20, "max_tokens": 60, "temperature": 0.0, "fresh": True}
    alone = [r1.generate(f"What is {n} + 2?", **asked) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: r1.generate(f"What is {n} + 2?", **asked), range(4)))
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]
    prompt, reply = r1.tokens_of("What is 0 + 2?", thinking=True), alone[0]
    logits = r1.logits([*prompt, *reply.token_ids])
    after = 20 + len(r1.tokenizer.encode_rendered(CLOSING))
    assert reply.token_ids[after] == logits[len(prompt) + after - 1].argmax()


def test_an_answer_that_is_cut_while_its_thought_is_closed(endless):
    reply = endless.generate("What is 2 + 2?", thinking_budget=10, max_tokens=15)
    assert reply.finish_reason == "length" and len(reply.token_ids) == 15 and reply.text == ""
    assert (
        cut_notice(reply, 2048, Sampling(), as_flag)
        == "(cut off while still thinking after 15 tokens, as asked)"
    )


def test_a_budget_is_not_for_answers(r1, told):
    told += [*r1.tokenizer.encode_rendered("Blue. " * 20), 151643]
    reply = r1.generate("Why?", thinking=False, thinking_budget=3)
    assert reply.text == "Blue. " * 20 and not reply.thinking


@pytest.mark.parametrize(
    ("value", "budget"),
    [(512, Budget(512)), ("512", Budget(512)), ("20s", Budget(None, 20.0)), ("0.5 s", Budget(None, 0.5))],
)
def test_budgets(value, budget):
    assert parse_budget(value) == budget
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "0s", "long", "20m", [], "s"])
def test_what_is_no_budget(model, bad):
    with pytest.raises(edgert.UsageError, match="thinking_budget must be tokens, such as 512, or seconds"):
        model.generate("fox", thinking_budget=bad)


def test_raw_text_has_no_budget(r1):
    with pytest.raises(edgert.UsageError, match="thinking is for prompts that a chat template makes"):
        r1.generate([5, 6], thinking_budget=5)
