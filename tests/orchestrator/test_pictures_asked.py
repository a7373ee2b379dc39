"""How many pictures, how large, in how many steps: the gateway reads what the image worker reads, or both refuse it."""

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.parsing import parse, parse_strings
from image.wire import EditBody, GenerationBody
from orchestrator.gateway import forms
from orchestrator.gateway.body import Body
from tests.fakes.studio import Studio

Read = tuple[Any, ...] | str | None

JSON = [
    *('{"n": 4}', '{"n": "4"}', '{"n": 4.0}', '{"n": 2.5}', '{"n": true}', '{"n": null}', '{"n": [4]}', '{"n": 1e1}'),
    *('{"n": 4, "n": 1}', '{"n": 1, "n": 4}', '{"n": -1}', '{"n": 1e400}', '{"n": 99999999999999999999}', "{}"),
    *('{"steps": 8}', '{"steps": "8"}', '{"steps": 8.0}', '{"steps": false}', '{"steps": {}}', '{"steps": null}'),
    *('{"size": "512x256"}', '{"size": "auto"}', '{"size": 512}', '{"size": [512, 256]}', '{"size": null}'),
    *('{"size": "512X256"}', '{"size": "5.0x5"}', '{"size": " 512x256"}', '{"size": "512x256x1"}', '{"size": ""}'),
]
TEXTS = [
    "4",
    "04",
    "+4",
    " 4",
    "4 ",
    "4.0",
    "4.5",
    "4_0",
    "4e0",
    "\uff14",
    "",
    "true",
    "null",
    "9" * 30,
    "auto",
    "512x256",
]


def understood(read: Callable[[], Any]) -> Read:
    """The fields as they are read, or the name of the one that is refused."""
    try:
        found = read()
        return found.count, found.asked_size(), found.steps
    except InvalidRequest as exc:
        return exc.param or "body"


@pytest.mark.parametrize("sent", JSON)
def test_json_is_read_alike(sent: str) -> None:
    fields = sent[1:] if sent == "{}" else "," + sent[1:]
    drawn = understood(lambda: parse(GenerationBody, b'{"prompt": "a"' + fields.encode()))
    assert understood(lambda: Body(sent.encode()).pictures()) == drawn


@pytest.mark.parametrize("name", ["n", "size", "steps"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_form_is_read_alike(name: str, text: str) -> None:
    head = f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'.encode()
    form = forms.read(b"multipart/form-data; boundary=b", head + text.encode() + b"\r\n--b--\r\n")
    drawn = understood(lambda: parse_strings(EditBody, {"prompt": "a", name: text}))
    assert understood(form.pictures) == drawn


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("n", "4"), ("n", 4.5), ("n", True), ("steps", "8"), ("size", 512)])
async def test_what_is_not_exactly_of_its_type_reaches_no_worker(studio: Studio, name: str, value: Any) -> None:
    worker = await studio.image_worker()
    answer = await studio.post("/v1/images/generations", {"prompt": "a", name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    edit = await studio.post("/v1/images/edits", files={"image": ("a.png", b"x")}, data={"prompt": "a", name: "x"})
    assert (edit.status_code, edit.json()["error"]["param"]) == (400, name)
    assert worker.received == []
