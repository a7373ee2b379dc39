"""What a request is thought to take: roughly for the queue, at most for the limits."""

import json
from typing import Any

import msgspec
import pytest

from core.wire.images import PicturesAsked
from core.wire.workers import Ability
from orchestrator.access.limits import Needs
from orchestrator.gateway.costs import (
    LARGEST,
    MOST,
    PHOTO_ANSWER,
    PHOTO_TOKENS,
    answers,
    drawing,
    estimate,
    most,
    photo,
    whole,
)

CHAT = {"messages": [{"role": "user", "content": "x" * 370}]}


def size(body: dict[str, Any]) -> int:
    return len(json.dumps(body))


NEEDS: dict[str, tuple[Ability, dict[str, Any], int | None, Needs]] = {
    "a limit of its own": ("chat", CHAT | {"max_tokens": 5}, None, Needs(tokens=size(CHAT | {"max_tokens": 5}) + 5)),
    "several answers": ("chat", {"n": 3, "max_tokens": 5}, None, Needs(tokens=size({"n": 3, "max_tokens": 5}) + 15)),
    "no limit: the model's context": ("chat", CHAT, 4096, Needs(tokens=size(CHAT) + 4096)),
    "no prompt is longer than the context": ("chat", CHAT | {"max_tokens": 5}, 100, Needs(tokens=105)),
    "a number as a text, as engines read it": ("chat", {"n": "3", "max_tokens": "5"}, None, Needs(tokens=29 + 15)),
    "several prompts": ("completions", {"prompt": ["a", "b"], "max_tokens": 5}, None, Needs(tokens=39 + 10)),
    "several prompts of token ids": ("completions", {"prompt": [[1], [2]], "n": 2}, 8, Needs(tokens=8 + 32)),
    "one prompt of token ids": ("completions", {"prompt": [1, 2, 3], "max_tokens": 5}, None, Needs(tokens=38 + 5)),
    "a picture may be more tokens than bytes": (
        "chat",
        {"messages": [{"content": [{"image_url": {"url": "data:,"}}]}], "max_tokens": 5},
        4096,
        Needs(tokens=4096 + 5),
    ),
    "nonsense is the worker's to refuse": ("chat", {"max_tokens": "x", "n": -1}, 64, Needs(tokens=28 + 64)),
    "what a chat engine ignores": ("chat", {"max_output_tokens": 1}, 64, Needs(tokens=24 + 64)),
    "what a chat engine reads first": (
        "chat",
        {"max_tokens": 9, "max_completion_tokens": 2},
        None,
        Needs(tokens=size({"max_tokens": 9, "max_completion_tokens": 2}) + 2),
    ),
    "null is not said": (
        "chat",
        {"max_tokens": 9, "max_completion_tokens": None},
        None,
        Needs(tokens=size({"max_tokens": 9, "max_completion_tokens": None}) + 9),
    ),
    "what a completion's engine ignores": (
        "completions",
        {"max_completion_tokens": 1, "max_output_tokens": 1, "max_tokens": 400},
        None,
        Needs(tokens=size({"max_completion_tokens": 1, "max_output_tokens": 1, "max_tokens": 400}) + 400),
    ),
    "what a response's engine ignores": (
        "responses",
        {"max_tokens": 1, "n": 3, "max_output_tokens": 400},
        None,
        Needs(tokens=size({"max_tokens": 1, "n": 3, "max_output_tokens": 400}) + 400),
    ),
    "as many answers as are asked for": ("chat", {"n": 10**9, "max_tokens": 2}, None, Needs(tokens=34 + 2 * 10**9)),
    "a number with a point": ("chat", {"n": 1e9, "max_tokens": "2.0"}, None, Needs(tokens=40 + 2 * 10**9)),
    "true is one": ("chat", {"n": True, "max_tokens": True}, None, Needs(tokens=31 + 1)),
    "the best of several": ("completions", {"n": 1, "best_of": 3, "max_tokens": 5}, None, Needs(tokens=39 + 15)),
    "more than can be kept": ("chat", {"n": 10**30, "max_tokens": 10**30}, None, Needs(tokens=LARGEST)),
    "texts": ("embeddings", {"input": "four"}, None, Needs(tokens=size({"input": "four"}))),
}


@pytest.mark.parametrize(("ability", "body", "context", "wanted"), NEEDS.values(), ids=NEEDS.keys())
def test_at_most(ability: Ability, body: dict[str, Any], context: int | None, wanted: Needs) -> None:
    assert most(ability, json.dumps(body).encode(), context) == wanted


def test_no_reservation_is_more_than_a_database_keeps() -> None:
    """The highest limit there is, and far from the end of its numbers."""
    assert LARGEST <= 2**63 // 1000


WHOLE: dict[str, tuple[Any, int | None]] = {
    "a number": (4, 4),
    "a text": ("4", 4),
    "a text with blanks": (" 4 ", 4),
    "a whole float": (4.0, 4),
    "a whole float as a text": ("4.0", 4),
    "true": (True, 1),
    "a fraction": (1.5, None),
    "none": (None, None),
    "nothing": (0, None),
    "below": (-4, None),
    "words": ("four", None),
    "not a number": (float("nan"), None),
    "endless": (float("inf"), None),
    "a list": ([4], None),
    "more digits than are read": ("9" * 5000, None),
}


@pytest.mark.parametrize(("value", "wanted"), WHOLE.values(), ids=WHOLE.keys())
def test_a_number_is_read_as_engines_do(value: Any, wanted: int | None) -> None:
    assert whole(value) == wanted


def test_how_many_answers_to_how_many_prompts() -> None:
    def found(n: str, prompt: str) -> tuple[int, int]:
        return answers(msgspec.Raw(n.encode()), msgspec.Raw(prompt.encode()))

    assert found("", "") == (1, 1)
    assert found('"3"', '["a", "b"]') == (3, 2)
    assert found("null", "[[1], [2], [3]]") == (1, 3)
    assert found("-1", "[1, 2, 3]") == (1, 1)


def test_a_selfies_bytes_are_no_tokens() -> None:
    assert most("faces", b"\xff\xd8" * 1_000_000, None) == Needs()


def test_a_question_about_a_selfie_may_be_asked_twice() -> None:
    assert photo(100, 50) == Needs(tokens=2 * (100 + PHOTO_TOKENS + 50) + 50)
    assert photo(100, None) == photo(100, PHOTO_ANSWER)


ROUGHLY: dict[str, tuple[bytes, float]] = {
    "prompt and answer": (b'{"max_tokens": 100, "a": 1}     ', 32 / 4 + 100),
    "a form": (b"\xff" * 400, 100.0),
}


def test_a_queue_weighs_a_request_by_what_its_engine_reads() -> None:
    assert estimate("chat", b'{"max_output_tokens":1}') > 500
    assert estimate("completions", b'{"max_completion_tokens":1,"max_tokens":400}') > 400
    assert estimate("responses", b'{"max_tokens":1,"max_output_tokens":400}') > 400


@pytest.mark.parametrize(("body", "wanted"), ROUGHLY.values(), ids=ROUGHLY.keys())
def test_roughly(body: bytes, wanted: float) -> None:
    assert estimate("chat", body) == pytest.approx(wanted)


DRAWN: dict[str, tuple[dict[str, Any], float]] = {
    "a picture": ({"size": "512x512", "steps": 10}, 512 * 512 / 256 * 10),
    "pictures of no stated size": ({"n": 2}, 2 * 1024 * 1024 / 256 * 8),
    "of the worker's own size": ({"size": "auto", "steps": 1}, 1024 * 1024 / 256),
    "no number is too large": ({"n": 10**400, "size": "99999x99999", "steps": 10**400}, MOST),
    "nonsense is the worker's to refuse": ({"n": -1, "size": "0x0", "steps": 0}, 1 / 256),
}


@pytest.mark.parametrize(("asked", "wanted"), DRAWN.values(), ids=DRAWN.keys())
def test_pictures_roughly(asked: dict[str, Any], wanted: float) -> None:
    assert drawing(PicturesAsked(**asked)) == pytest.approx(wanted)
