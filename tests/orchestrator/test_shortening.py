"""A long message in at most 25 words that still says what it wants; and what a model answered, read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pipelines import expansion, shortening
from orchestrator.pipelines.shortening import MOST_WORDS, keeps, shorten, words

DAY = "Hello you, I had such a long day at work with so many meetings and I really hate mondays, "
ASKS = {
    "at the end": (DAY + "anyway could you please send me a picture of a red sailboat on a calm lake", "red sailboat"),
    "at the beginning": ("Please draw Bruno running into the waves with a yellow ball. " + DAY + DAY, "Bruno running"),
    "in the middle": (DAY + "can you show me the old lighthouse? " + DAY, "the old lighthouse"),
    "in one long breath": (
        "please draw me a castle on a hill with a big red flag and a blue river around it and a small wooden bridge"
        " and two horses on the bridge and a very old oak tree beside the gate under a purple sky",
        "castle",
    ),
    "nowhere": (DAY + "the train was late, the train was full, and the train was cold and dark all night", "train"),
}


@pytest.mark.parametrize(("message", "wanted"), ASKS.values(), ids=ASKS.keys())
def test_what_is_asked_for_stays(message: str, wanted: str) -> None:
    short = shorten(message)
    assert len(message.split()) > MOST_WORDS >= len(short.split())
    assert wanted in short
    assert keeps(short, message)


def test_a_short_message_stays_as_it_is() -> None:
    for message in ("", "a boat", " ".join(["word"] * MOST_WORDS)):
        assert shorten(message) == message


texts = st.lists(st.sampled_from([*DAY.split(), "a", "boat.", "draw", "...", "-", "ü", "\n", "?!"]), max_size=80)


@given(texts)
def test_it_is_short_and_says_nothing_new(given_words: list[str]) -> None:
    message = " ".join(given_words)
    short = shorten(message)
    assert len(short.split()) <= MOST_WORDS or short == message
    assert set(words(short)) <= set(words(message))
    assert bool(words(short)) == bool(words(message))


KEPT = {
    "its words": ("a red sailboat on a lake", True),
    "mostly its words": ("red sailboat, calm lake, evening", True),
    "other words": ("a grey cat under the table", False),
    "nothing": ("", False),
    "too long": (" ".join(["sailboat"] * 26), False),
}


@pytest.mark.parametrize(("short", "is_kept"), KEPT.values(), ids=KEPT.keys())
def test_a_models_shortening_is_believed_where_it_keeps_the_words(short: str, is_kept: bool) -> None:
    assert keeps(short, ASKS["at the end"][0]) is is_kept


def answer(**fields: Any) -> str:
    return json.dumps({"intent": "a boat", "prompt": "a red boat", "safety": "safe", **fields})


READ = {
    "all three": (answer(), True, ("a red boat", "safe", "model")),
    "unsafe": (answer(safety="unsafe"), True, ("a red boat", "unsafe", "model")),
    "more than was asked": (answer(more=1), True, ("a red boat", "safe", "model")),
    "a prompt alone": ('{"prompt": "a red boat"}', True, ("a red boat", "unknown", "model")),
    "an empty prompt": (answer(prompt=" "), True, ("my boat", "safe", "message")),
    "no JSON": ("a red boat", True, ("my boat", "unknown", "message")),
    "a list": ("[1]", True, ("my boat", "unknown", "message")),
    "text, as it should be": ("a red boat", False, ("a red boat", "unknown", "text")),
    "nothing": ("", False, ("my boat", "unknown", "message")),
}


@pytest.mark.parametrize(("text", "structured", "found"), READ.values(), ids=READ.keys())
def test_what_a_model_answered(text: str, structured: bool, found: tuple[str, str, str]) -> None:
    read = expansion.read(text, "my boat", structured=structured)
    assert (read.prompt, read.safety, read.source) == found
    assert read.message == "my boat"


def test_content_is_more_than_filling() -> None:
    assert not keeps("the and with", "the and with very " * 10)
    assert shortening.is_long("w " * 26)
