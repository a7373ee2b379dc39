"""What a request is thought to take: roughly for the queue, at most for the limits."""

import json
from typing import Any

import pytest

from core.wire.images import PicturesAsked
from core.wire.workers import Ability
from orchestrator.costs import MOST, PHOTO_ANSWER, PHOTO_TOKENS, drawing, estimate, most, photo
from orchestrator.limits import Needs

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
    "texts": ("embeddings", {"input": "four"}, None, Needs(tokens=size({"input": "four"}))),
}


@pytest.mark.parametrize(("ability", "body", "context", "wanted"), NEEDS.values(), ids=NEEDS.keys())
def test_at_most(ability: Ability, body: dict[str, Any], context: int | None, wanted: Needs) -> None:
    assert most(ability, json.dumps(body).encode(), context) == wanted


def test_a_selfies_bytes_are_no_tokens() -> None:
    assert most("faces", b"\xff\xd8" * 1_000_000, None) == Needs()


def test_a_question_about_a_selfie_may_be_asked_twice() -> None:
    assert photo(100, 50) == Needs(tokens=2 * (100 + PHOTO_TOKENS + 50) + 50)
    assert photo(100, None) == photo(100, PHOTO_ANSWER)


ROUGHLY: dict[str, tuple[bytes, float]] = {
    "prompt and answer": (b'{"max_tokens": 100, "a": 1}     ', 32 / 4 + 100),
    "a form": (b"\xff" * 400, 100.0),
}


@pytest.mark.parametrize(("body", "wanted"), ROUGHLY.values(), ids=ROUGHLY.keys())
def test_roughly(body: bytes, wanted: float) -> None:
    assert estimate(body) == pytest.approx(wanted)


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
