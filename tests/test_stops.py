"""Stop strings are found across token borders and nothing of them is shown."""

import itertools

import pytest

from edgert.errors import UsageError
from edgert.text.stops import StopMatcher, check_stops


def feed(stops, pieces):
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.matched:
            return shown, matcher.matched
    return shown + matcher.flush(), None


def test_text_without_stops_passes_at_once():
    assert StopMatcher(()).push("abc") == "abc"


@pytest.mark.parametrize("cuts", list(itertools.combinations(range(1, 11), 2)))
def test_every_way_to_cut_the_text_finds_the_same_stop(cuts):
    text = "hello STOP!"
    pieces = [text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]]
    assert feed(["STOP"], pieces) == ("hello ", "STOP")


def test_what_only_looked_like_a_stop_is_shown_in_the_end():
    assert feed(["STOP"], ["a ST", "ORM ST"]) == ("a STORM ST", None)


def test_a_beginning_is_held_back_until_it_is_certain():
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("one\n") == "one"
    assert matcher.push("two") == "\ntwo"


def test_repeated_beginnings_are_not_missed():
    assert feed(["aab"], ["a", "a", "a", "b", "x"]) == ("a", "aab")


def test_the_earliest_of_several_wins():
    assert feed(["late", "early"], ["so early, not late"]) == ("so ", "early")


@pytest.mark.parametrize("bad", [[""], [3], ["x", None]])
def test_stops_must_be_strings(bad):
    with pytest.raises(UsageError, match="stop must be"):
        check_stops(bad)
