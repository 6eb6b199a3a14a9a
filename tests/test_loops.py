"""Loops are noticed soon, and what only looks like one is let alone."""

import pytest
from click.testing import CliRunner

from edgert.chat.notices import as_command, as_flag, cut_notice
from edgert.chat.terminal import Chat
from edgert.cli import main
from edgert.text.loops import LONGEST_PHRASE, REPEATS, SHORTEST_LOOP, LoopDetector
from edgert.text.sampler import Sampling


def noticed_after(tokens):
    """How many tokens until it is a loop; None if it never is."""
    detector = LoopDetector()
    return next((count for count, token in enumerate(tokens, 1) if detector.push(token)), None)


@pytest.mark.parametrize("period", [1, 2, 7, 40, LONGEST_PHRASE])
def test_a_phrase_that_comes_again_and_again(period):
    before = list(range(1000, 1050))
    phrase = list(range(period))
    enough = period + max(REPEATS * period, SHORTEST_LOOP)
    assert noticed_after(before + phrase * 200) == len(before) + enough


def test_few_repetitions_are_no_loop():
    phrase = list(range(40))
    assert noticed_after(phrase * REPEATS + list(range(50, 90))) is None


def test_a_changing_word_in_the_phrase_is_no_loop():
    """As in a table or a list that counts."""
    assert noticed_after([token for row in range(100) for token in (1, 2, 3, 1000 + row, 4)]) is None


def test_chat_stops_and_says_so(bundles):
    """A tiny random model under greedy decoding ends in a loop like a student that is lost."""
    result = CliRunner().invoke(main, ["chat", str(bundles()), "--context", "256"], input="the fox")
    assert result.exit_code == 0
    if "the context of 256 tokens is full" in result.stderr:
        pytest.fail("the tiny model didn't loop: choose another prompt")
    assert "(stopped: it only repeats itself" in result.stderr


def test_of_a_loop_the_phrase_stays_once(model, capsys):
    """Or the next answer would take it up again."""
    chat = Chat(model, {"logit_bias": {7: 100.0}})
    timings = chat.answer("the fox")
    assert "only repeats itself" in capsys.readouterr().err
    assert timings.answer_tokens == 1 + SHORTEST_LOOP
    once = model.generate("the fox", max_tokens=1, logit_bias={7: 100.0}).text
    assert chat._conversation.turns[-1] == {"role": "assistant", "content": once}


@pytest.mark.parametrize("period", [1, 3, 40])
def test_how_much_was_repeated(period):
    detector = LoopDetector()
    tokens = [1000, 1001, *list(range(period)) * 200]
    ended = next(count for count, token in enumerate(tokens, 1) if detector.push(token))
    assert ended - detector.repeated == 2 + period


@pytest.mark.parametrize(
    ("sampling", "named", "advice"),
    [
        (Sampling(), as_flag, "try --temperature 0.6, or ask otherwise"),
        (Sampling(temperature=0.2), as_command, "try /set temperature 0.6, or ask otherwise"),
        (Sampling(temperature=0.6), as_flag, "try --repetition-penalty 1.1, or ask otherwise"),
        (Sampling(temperature=0.8), as_command, "try /set repetition_penalty 1.1, or ask otherwise"),
        (Sampling(temperature=0.8, repetition_penalty=1.2), as_command, "itself; ask otherwise"),
    ],
)
def test_the_advice_is_not_in_use_already(model, sampling, named, advice):
    reply = model.generate("the fox", logit_bias={7: 100.0}, stop_loops=True)
    assert advice in cut_notice(reply, 256, sampling, named)
