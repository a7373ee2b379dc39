"""What a worker may say of itself: exact types, bounded sizes, no unknown fields."""

from typing import Any

import pytest
from pydantic import ValidationError

from core.wire.workers import Announcement, Lease, ServedModel

LEAST: dict[str, Any] = {"id": "w-1", "kind": "chat", "url": "http://w:7861"}
MODEL: dict[str, Any] = {"id": "Qwen/Qwen2.5-7B-Instruct", "aliases": ["qwen_instruct"], "abilities": ["chat"]}

GOOD: dict[str, dict[str, Any]] = {
    "least": {},
    "pod address": {"url": "https://abc-7861.proxy.runpod.net"},
    "models": {"models": [MODEL, MODEL | {"max_model_len": 32768}]},
    "roles": {"kind": "image", "roles": ["profile", "chat1to1"]},
    "queue": {"queue_depth": 0},
    "draining": {"ready": False, "draining": True, "capacity": 100_000},
    "longest id": {"id": "w" * 200},
    "every sign an id may have": {"id": "a.B_9:/@+-"},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": ""}, "id"),
    "id too long": ({"id": "w" * 201}, "id"),
    "id with a space": ({"id": "two words"}, "id"),
    "id with a new line": ({"id": "w\n"}, "id"),
    "id with a control token": ({"id": "<|im_start|>"}, "id"),
    "unknown kind": ({"kind": "video"}, "kind"),
    "url without scheme": ({"url": "w:7861"}, "url"),
    "url of a file": ({"url": "file:///etc/passwd"}, "url"),
    "too many models": ({"models": [MODEL] * 65}, "models"),
    "unknown ability": ({"models": [MODEL | {"abilities": ["dance"]}]}, "models.0.abilities.0"),
    "bad alias": ({"models": [MODEL | {"aliases": ["ok", ""]}]}, "models.0.aliases.1"),
    "no context": ({"models": [MODEL | {"max_model_len": 0}]}, "models.0.max_model_len"),
    "unknown field of a model": ({"models": [MODEL | {"secret": 1}]}, "models.0.secret"),
    "too many roles": ({"roles": ["r"] * 17}, "roles"),
    "no capacity": ({"capacity": 0}, "capacity"),
    "too much capacity": ({"capacity": 100_001}, "capacity"),
    "less than nobody": ({"queue_depth": -1}, "queue_depth"),
    "unknown field": ({"prompt": "You are"}, "prompt"),
}


@pytest.mark.parametrize("given", GOOD.values(), ids=GOOD.keys())
def test_an_announcement_survives_the_wire(given: dict[str, Any]) -> None:
    announced = Announcement.model_validate(LEAST | given)
    assert Announcement.model_validate_json(announced.model_dump_json()) == announced


@pytest.mark.parametrize(("given", "where"), BAD.values(), ids=BAD.keys())
def test_a_wrong_announcement_is_refused(given: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Announcement.model_validate(LEAST | given)
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()] == [where]


def test_what_is_announced_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ServedModel.model_validate(MODEL).id = "other"


@pytest.mark.parametrize("seconds", [0, -1, "nan", "inf", None])
@pytest.mark.parametrize("field", ["lease_seconds", "heartbeat_seconds"])
def test_a_lease_that_cannot_be_kept_is_refused(field: str, seconds: object) -> None:
    with pytest.raises(ValidationError):
        Lease.model_validate({"id": "w", "lease_seconds": 30, "heartbeat_seconds": 10} | {field: seconds})
