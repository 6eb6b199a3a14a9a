"""A conversation that outgrows its context: told, or the oldest turns left out, never silently."""

import warnings

import pytest

import edgert
from edgert.answering.session import Session

CONTEXT = 120


@pytest.fixture
def small(bundles):
    with edgert.load(bundles(), context=CONTEXT) as model:
        yield model


def grow(chat, turns):
    """Ask that often; how long each prompt was, and what was told."""
    lengths = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for number in range(turns):
            lengths.append(chat.send(f"the quick brown fox {number}").reply.timings.prompt_tokens)
    return lengths, [str(warning.message) for warning in told]


def test_the_oldest_turns_are_left_out_and_counted(small):
    chat = small.conversation("Be brief.", max_tokens=8, overflow="drop-oldest-turns")
    lengths, told = grow(chat, 30)  # three contexts long, about
    assert sum(lengths[1:]) > 3 * CONTEXT and max(lengths) <= CONTEXT - 8
    assert len(told) >= 2 and told[-1] == (
        f"the context of {CONTEXT} tokens is full: prompts leave out the oldest {chat.left_out} messages"
    )
    assert len(chat.turns) == 60 and chat.messages[0] == {"role": "system", "content": "Be brief."}
    assert chat.messages[1:] == chat.turns[chat.left_out :] and chat.turns[chat.left_out]["role"] == "user"


def test_sliding_leaves_out_no_more_than_it_must(small):
    sliding = small.conversation(max_tokens=8, overflow="slide")
    dropping = small.conversation(max_tokens=8, overflow="drop-oldest-turns")
    lengths, told, fewer, left_out = [], [], [], []
    for _ in range(30):
        for chat, sizes, said in ((sliding, lengths, told), (dropping, fewer, [])):
            more, warned = grow(chat, 1)
            sizes.extend(more)
            said.extend(warned)
        left_out.append((sliding.left_out, dropping.left_out))
    assert max(lengths) <= CONTEXT - 8 and sum(lengths) > sum(fewer)
    assert sum(slid for slid, _ in left_out) < sum(dropped for _, dropped in left_out) and len(set(told)) > 10


def test_an_error_is_the_default_and_loses_nothing(small):
    chat = small.conversation(max_tokens=8)
    with pytest.raises(edgert.PromptTooLong):
        grow(chat, 30)
    assert chat.left_out == 0 and len(chat.turns) % 2 == 0


def test_a_question_that_is_too_long_alone_is_refused(small):
    chat = small.conversation(max_tokens=8, overflow="drop-oldest-turns")
    grow(chat, 3)
    with pytest.raises(edgert.PromptTooLong), pytest.warns(edgert.EdgertWarning, match="oldest 6 messages"):
        chat.send("the quick brown fox jumps over the lazy dog " * 20)
    assert len(chat.turns) == 6
    chat.take_back()
    assert chat.messages == chat.turns[chat.left_out :]


def test_a_session_keeps_all(small, tmp_path):
    chat = small.conversation(max_tokens=8, overflow="drop-oldest-turns", session=tmp_path / "s")
    grow(chat, 20)
    assert chat.left_out and len(Session(tmp_path / "s").messages) == 40


def test_other_policies_are_refused(small):
    with pytest.raises(
        edgert.UsageError, match="overflow must be one of error, drop-oldest-turns, slide, not 'drop'"
    ):
        small.conversation(overflow="drop")
