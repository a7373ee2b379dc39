"""Edits of pictures, and pictures that are streamed: relayed to workers that declared them, judged as every prompt."""

import io
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.wire.images import PicturesAsked
from orchestrator.gateway import forms
from tests.fakes.client import connected, request
from tests.fakes.studio import Studio
from tests.fakes.wait import eventually, soon

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
SOFT_TEXT = "a portrait in zzattire"
BOUNDARY = b"----limit"
KIND = b"multipart/form-data; boundary=" + BOUNDARY


def part(name: str, content: bytes, *, filename: str | None = None, more: bytes = b"") -> bytes:
    of_file = b"" if filename is None else b'; filename="%s"' % filename.encode()
    head = b'Content-Disposition: form-data; name="%s"%s' % (name.encode(), of_file)
    return b"--%s\r\n%s%s\r\n\r\n%s\r\n" % (BOUNDARY, head, more, content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


PICTURE = part("image", PNG, filename="a.png")
PROMPT = part("prompt", b"a red hat")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_form_is_read_as_the_json_that_it_means() -> None:
    found = forms.read(KIND, form(PICTURE, PROMPT, part("n", b"2"), part("model", b"m"), part("strength", b"0.5")))
    assert json.loads(found.read) == {"prompt": "a red hat", "n": "2", "model": "m", "strength": "0.5"}
    assert found.pictures() == PicturesAsked(n=2)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(TEXTS, TEXTS, st.binary(max_size=60))
def test_a_text_is_replaced_and_nothing_else(before: str, after: str, picture: bytes) -> None:
    def made(prompt: str) -> bytes:
        pictures = part("image", picture, filename="a"), part("image", picture[::-1], filename="b")
        return form(pictures[0], part("prompt", prompt.encode()), pictures[1], part("user", b"me"))

    assert forms.read(KIND, made(before)).with_text("prompt", after).sent == made(after)


def test_a_text_that_holds_the_boundary_is_not_put_in() -> None:
    found = forms.read(KIND, form(PICTURE, PROMPT))
    with pytest.raises(InvalidRequest):
        found.with_text("prompt", "a\r\n--" + BOUNDARY.decode() + "\r\n\r\nb")


WRONG: dict[str, tuple[bytes, bytes, str]] = {
    "JSON": (b"application/json", b"{}", "invalid_content_type"),
    "nothing said": (b"", b"", "invalid_content_type"),
    "no boundary": (b"multipart/form-data", form(PROMPT), "invalid_content_type"),
    "another charset": (KIND + b"; charset=utf-7", form(PROMPT), "invalid_content_type"),
    "no multipart": (KIND, b"prompt=a", "invalid_multipart"),
    "cut off": (KIND, form(PROMPT)[:-8], "invalid_multipart"),
    "too many parts": (KIND, form(*[part(f"x{number}", b"") for number in range(97)]), "invalid_multipart"),
    "a text twice": (KIND, form(PROMPT, PROMPT), "invalid_value"),
    "an unknown text twice": (KIND, form(part("x", b"a"), part("x", b"a")), "invalid_value"),
    "a file of an unknown name": (KIND, form(PROMPT, part("negative_prompt", b"a", filename="a.txt")), "invalid_value"),
    "a text as a file": (KIND, form(part("prompt", b"a", filename="a.txt")), "invalid_value"),
    "an encoded text": (
        KIND,
        form(part("prompt", b"YQ==", more=b"\r\nContent-Transfer-Encoding: base64")),
        "invalid_value",
    ),
    "a name twice": (
        KIND,
        form(part("prompt", b"a", more=b'\r\nContent-Disposition: form-data; name="user"')),
        "invalid_multipart",
    ),
    "two names": (
        KIND,
        form(part("prompt", b"a", more=b"")).replace(b'name="prompt"', b'name="prompt"; name="image"'),
        "invalid_multipart",
    ),
    "a name in two ways": (
        KIND,
        form(PROMPT).replace(b'name="prompt"', b"name=\"x\"; name*=utf-8''prompt"),
        "invalid_multipart",
    ),
    "two boundaries": (b"multipart/form-data; boundary=b; boundary=" + BOUNDARY, form(PROMPT), "invalid_content_type"),
    "a text of another charset": (
        KIND,
        form(part("prompt", b"a", more=b"\r\nContent-Type: text/plain; charset=utf-7")),
        "invalid_value",
    ),
    "a field that names the charset": (KIND, form(PROMPT, part("_charset_", b"utf-7")), "invalid_value"),
    "a picture as a text": (KIND, form(PROMPT, part("image", b"a red hat")), "invalid_value"),
    "not UTF-8": (KIND, form(part("prompt", b"\xff")), "invalid_value"),
    "a long text": (KIND, form(part("prompt", b"a" * (forms.MAX_TEXT + 1))), "invalid_value"),
}


@pytest.mark.parametrize(("kind", "sent", "code"), WRONG.values(), ids=WRONG.keys())
def test_what_two_readers_could_understand_differently_is_refused(kind: bytes, sent: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        forms.read(kind, sent)
    assert caught.value.code == code


# -- by HTTP ----------------------------------------------------------------------------------------------------------

slow = pytest.mark.slow


@slow
async def test_an_edit_reaches_a_worker_that_declared_it_byte_for_byte(studio: Studio) -> None:
    worker = await studio.image_worker()
    mask = ("mask.png", io.BytesIO(PNG[::-1]))
    answer = await studio.sdk().images.edit(
        model="tiny-image",
        image=("a.png", io.BytesIO(PNG)),
        mask=mask,
        prompt="a red hat",
        extra_body={"strength": 0.5},
    )
    assert answer.data
    assert answer.data[0].b64_json == worker.pictures[0]["b64_json"]
    (sent,) = worker.received
    assert (sent["image"], sent["mask"], sent["prompt"], sent["strength"]) == (PNG, PNG[::-1], "a red hat", "0.5")


@slow
@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
async def test_partial_images_come_before_the_whole_one_is_there(studio: Studio, kind: str) -> None:
    worker = await studio.image_worker()
    images = studio.sdk().images
    if kind == "image_edit":
        stream: Any = await images.edit(image=PNG, prompt="a red hat", stream=True, partial_images=1)
    else:
        stream = await images.generate(prompt="a red hat", stream=True, partial_images=1)
    events = [await soon(anext(stream))]
    worker.partial_seen.set()
    events += [event async for event in stream]
    assert [event.type for event in events] == [f"{kind}.partial_image", f"{kind}.completed"]
    assert events[0].b64_json == worker.pictures[0]["b64_json"]


@slow
async def test_a_caller_who_leaves_a_stream_of_images_frees_the_worker(studio: Studio) -> None:
    worker = await studio.image_worker()
    worker.held.clear()
    headers = [(b"authorization", b"Bearer " + studio.key.encode()), (b"content-type", KIND)]
    async with connected(studio.port) as client:
        await client.send(request(b"POST", b"/v1/images/edits", headers, form(PICTURE, PROMPT)))
        await eventually(lambda: worker.running)
    await eventually(lambda: not worker.running)
    assert worker.left == 1


async def edited(studio: Studio, **fields: str) -> Any:
    files = {"image": ("a.png", PNG, "image/png")}
    headers = {"authorization": f"Bearer {studio.key}"}
    return await studio.http.post(
        "/v1/images/edits", data={"prompt": "a red hat", **fields}, files=files, headers=headers
    )


@slow
async def test_a_prompt_is_judged_as_of_a_real_person_and_constraints_go_into_the_form(studio: Studio) -> None:
    worker = await studio.image_worker()
    refused = await edited(studio, prompt="a zznudity portrait")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "sexual/real_person")
    assert worker.received == []
    answer = await edited(studio, prompt=SOFT_TEXT)
    assert answer.status_code == 200, answer.text
    assert "tier=0" in answer.headers["x-policy"]
    assert "decision=soft" in answer.headers["x-policy"]
    (sent,) = worker.received
    assert sent["prompt"].startswith(SOFT_TEXT + " ")
    assert sent["image"] == PNG
    run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
    assert sent["prompt"] == f"{SOFT_TEXT} {run['constraints_added']}"


@slow
async def test_who_edits_is_told_what_exists(studio: Studio) -> None:
    await studio.image_worker()
    generates = {"models": [{"id": "only-draws", "abilities": ["images"]}]}
    await studio.image_worker("image-2", **generates)
    for model in ("nope", "only-draws"):
        with pytest.raises(openai.NotFoundError) as caught:
            await studio.sdk().images.edit(model=model, image=PNG, prompt="a red hat")
        assert caught.value.code == "model_not_found"
        assert "tiny-image" in str(caught.value)
        assert "it has: tiny-image." in str(caught.value)


@slow
async def test_edits_count_as_the_images_that_they_ask_for(studio: Studio) -> None:
    worker = await studio.image_worker()
    made = await studio.post("/v1/keys", {"name": "an app", "scopes": ["images"], "limits": {"images_per_minute": 3}})
    client = studio.sdk(made.json()["secret"])
    await client.images.edit(image=PNG, prompt="a red hat", n=2)
    with pytest.raises(openai.RateLimitError):
        await client.images.edit(image=PNG, prompt="a red hat", n=2)
    assert len(worker.received) == 1


@slow
async def test_a_form_over_the_body_limit_is_refused_before_it_is_read(studio: Studio) -> None:
    await studio.image_worker()
    async with connected(studio.port) as client:
        key = (b"authorization", b"Bearer " + studio.key.encode())
        head = request(b"POST", b"/v1/images/edits", [(b"content-type", KIND), key], b"")
        await client.send(head.replace(b"Content-Length: 0", b"Content-Length: %d" % (1 << 40)))
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
