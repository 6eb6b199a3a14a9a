"""Conversations: what is remembered, what is reused, and what an answer that didn't end well leaves."""

import gc

import pytest

import edgert
from edgert.answering.conversation import Conversation
from edgert.text.sampler import SampledToken, Sampler

# What an R1 student says: its template spells <think> and the next turn's prompt drops the thoughts.
R1_TALK = (
    ("Why is the sky blue?", "Light is scattered.\n" * 20 + "</think>\n\nAir scatters blue light most."),
    ("And at sunset?", "A longer way through the air.\n" * 15 + "</think>\n\nBlue is scattered away."),
    ("On Mars?", "There is dust.\n" * 10 + "</think>\n\nThe other way around."),
)


@pytest.fixture
def chat(model):
    return model.conversation(max_tokens=6)


def contents(chat):
    return [(turn["role"], turn["content"]) for turn in chat.turns]


def test_questions_and_answers_are_remembered(model, chat):
    first = chat.send("the fox").reply
    second = chat.send("jumps").reply
    assert contents(chat) == [
        ("user", "the fox"),
        ("assistant", first.text),
        ("user", "jumps"),
        ("assistant", second.text),
    ]
    assert second.timings.prompt_tokens == len(model.tokens_of(chat.messages[:3]))


class Talk:
    """A conversation, and how much of its next prompt is what its last turn has left in the cache."""

    def __init__(self, model, **options):
        self.model, self.chat, self.held = model, model.conversation(**options), []

    def ask(self, text):
        prompt = self.model.tokens_of([*self.chat.messages, {"role": "user", "content": text}])
        same = [held == wanted for held, wanted in zip(self.held, prompt, strict=False)] + [False]
        reply = self.chat.send(text).reply
        self.held = [*prompt, *reply.token_ids[:-1]]
        return reply.timings.cached_tokens, min(same.index(False), len(prompt) - 2)


def test_a_turn_computes_only_what_is_new(model):
    talk = Talk(model, max_tokens=6)
    talk.ask("the quick brown fox")
    for text in ("jumps", "over", "the dog"):
        reused, expected = talk.ask(text)
        assert reused == expected > 8


def test_its_own_cache_is_found_again_among_others(bundles):
    """Three conversations in turn, and single questions between them: none loses what it has computed."""
    with edgert.load(bundles()) as model:
        talks = [Talk(model, system=f"{name} fox", max_tokens=4) for name in ("the", "lazy", "brown")]
        for talk in talks:
            talk.ask("lazy dog")
        for talk in talks * 3:
            model.generate("over", max_tokens=3)
            reused, expected = talk.ask("jumps")
            assert reused == expected > 6


def test_more_conversations_than_rows_take_turns(bundles):
    with edgert.load(bundles(), conversations=2) as model:
        chats = [model.conversation(max_tokens=3) for _ in range(4)]
        for text in ("fox", "dog"):
            for chat in chats:
                list(chat.send(text))
        assert len({tuple(contents(chat)) for chat in chats}) == 1
        assert chats[-1].send("fox").reply.timings.cached_tokens > 0


def test_the_system_prompt_goes_first(model):
    chat = model.conversation(system="be brief", max_tokens=3)
    list(chat.send("fox"))
    assert chat.messages[0] == {"role": "system", "content": "be brief"}


def test_a_second_question_waits_for_the_first_answer(chat):
    stream = chat.send("fox", max_tokens=100)
    with pytest.raises(edgert.UsageError, match="still answering: read its stream to the end, or call stop"):
        chat.send("dog")
    stream.stop()
    list(chat.send("dog"))
    assert [role for role, _ in contents(chat)][-2:] == ["user", "assistant"]


def test_an_answer_that_is_left_is_remembered_as_far_as_it_came(chat):
    for count, _ in enumerate(chat.send("fox", max_tokens=150)):
        if count == 3:
            break
    gc.collect()
    list(chat.send("dog"))
    roles = [role for role, _ in contents(chat)]
    assert roles == ["user", "assistant", "user", "assistant"] and contents(chat)[1][1]


def test_a_question_stopped_before_its_first_token_is_forgotten(model):
    chat = model.conversation(max_tokens=5)
    busy = [model.stream("fox", max_tokens=100) for _ in range(model.conversations)]
    stream = chat.send("dog")  # waits for a row
    stream.stop()
    assert stream.reply.finish_reason == "cancelled" and stream.reply.text == ""
    assert chat.turns == []
    for other in busy:
        other.close()


def test_a_question_that_is_too_long_is_forgotten(chat):
    list(chat.send("fox"))
    before = list(chat.turns)
    with pytest.raises(edgert.PromptTooLong):
        chat.send("fox " * 1000)
    assert chat.turns == before
    list(chat.send("dog"))


def test_options_of_a_question_go_before_the_conversations(chat):
    assert chat.send("fox", max_tokens=2).reply.timings.answer_tokens == 2
    assert chat.send("fox").reply.timings.answer_tokens == 6
    with pytest.raises(edgert.UsageError, match="unknown option 'beams'"):
        chat.send("fox", beams=2)


def test_it_goes_on_from_messages(model, chat):
    list(chat.send("fox"))
    other = model.conversation(messages=chat.messages, max_tokens=6)
    assert other.send("dog").reply.text == chat.send("dog").reply.text


def test_saved_and_loaded(model, chat, tmp_path):
    chat.system = "be brief"
    list(chat.send("fox"))
    chat.save(tmp_path / "talk.json")
    other = model.conversation()
    other.load(tmp_path / "talk.json")
    assert other.messages == chat.messages
    (tmp_path / "talk.json").write_text('{"messages": [{"role": "king"}]}')
    with pytest.raises(edgert.UsageError, match="not a saved conversation|must have a 'role'"):
        other.load(tmp_path / "talk.json")
    assert other.messages == chat.messages


def test_turns_that_are_cleared_while_a_question_waits_get_no_answer(chat):
    stream = chat.send("fox", max_tokens=100)
    chat.turns.clear()
    assert stream.reply.tokens
    assert chat.turns == []
    stream = chat.send("dog", max_tokens=100)
    chat.turns.clear()
    chat.stop()
    assert stream.reply.finish_reason == "cancelled" and chat.turns == []


def test_loading_waits_for_the_end_of_an_answer(chat, tmp_path):
    chat.save(tmp_path / "empty.json")
    chat.system = "be brief"
    stream = chat.send("fox", max_tokens=100)
    with pytest.raises(edgert.UsageError, match="still answering"):
        chat.load(tmp_path / "empty.json")
    assert chat.system == "be brief"
    stream.close()
    chat.load(tmp_path / "empty.json")
    assert chat.messages == []


def test_the_last_question_can_be_taken_back(chat):
    list(chat.send("fox"))
    list(chat.send("dog"))
    assert chat.take_back() == "dog" and len(chat.turns) == 2
    chat.clear()
    with pytest.raises(edgert.UsageError, match="no question yet"):
        chat.take_back()


def test_r1_turns_compute_only_what_the_template_has_changed(r1, monkeypatch):
    """A turn's prompt has the earlier answer without its thoughts: from there on it is computed again."""
    told, chat, table = [], r1.conversation(), []
    monkeypatch.setattr(Sampler, "choose", lambda *_: SampledToken(told.pop(0)))
    for question, answer in R1_TALK:
        told += [*r1.tokenizer.encode_rendered(answer), 151643]
        timings = chat.send(question).reply.timings
        table.append((timings.prompt_tokens, timings.prompt_tokens - timings.cached_tokens))
        assert chat.turns[-1]["content"] == answer
    said = [len(r1.tokenizer.encode_rendered(answer.split("</think>")[1])) for _, answer in R1_TALK]
    print("R1, tokens of the prompt and those computed, by turn:", table)
    assert table[0][0] == table[0][1]
    for (_, computed), answer, (question, _) in zip(table[1:], said, R1_TALK[1:], strict=False):
        new = len(r1.tokenizer.encode_rendered(question)) + 4  # with the tags around it
        assert computed <= answer + new + 2


def test_it_tells_what_it_is(model):
    assert repr(model.conversation(system="x")) == "<edgert.Conversation: 0 messages, system 'x'>"
    assert isinstance(model.conversation(), Conversation)
