"""A vision-language model: what it is sent, to the byte; what becomes of an answer that does not fit."""

import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from PIL import Image

from core.json.canonical import messages_sha256
from prompts.sources import SEED, read_folder
from tests.fakes.client import Answer, ask, request
from tests.fakes.serving import serving
from tests.vision.doubles import eye_of, in_process
from tests.vision.photos import ASTRONAUT, encoded, exif, multipart, photo, pixels
from vision.app import create_app
from vision.describe import VisionModel
from vision.faces.blazeface import BlazeFace
from vision.reading import SmallModels
from vision.settings import VisionSettings

KEY = "vlm-key"
MESSAGES = [{"role": "system", "content": "You look."}, {"role": "user", "content": "What hair, what clothes?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "hair": {"type": "string", "enum": ["brown", "black", "unknown"]},
        "clothes": {"type": "string", "maxLength": 20},
        "glasses": {"type": "boolean"},
        "age_bracket": {"type": "string", "enum": ["under 18", "18 to 29", "30 to 44"]},
    },
    "required": ["hair", "clothes", "glasses"],
    "additionalProperties": False,
}
SAMPLING = {"temperature": 0.0, "max_tokens": 200, "seed": 3}
REPAIR = "That did not fit. Again."
GOOD = {"hair": "brown", "clothes": "an orange suit", "glasses": False}
PHOTO = encoded(photo(ASTRONAUT), "JPEG", quality=95, exif=exif(make="canary-0815"))
FIELDS = {"messages": MESSAGES, "schema": SCHEMA, "sampling": SAMPLING}


class Vlm:
    """Answers with `says`, in order; `status` other than 200 is a refusal. Keeps what it was sent."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.says: list[Any] = [GOOD]
        self.status = 200
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.elsewhere = ""
        self.usage: Any = None

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            self.received.append(await request.json())
            self.headers.append(dict(request.headers))
            if self.elsewhere:
                return RedirectResponse(self.elsewhere)
            if self.status != 200:
                return JSONResponse({"error": {"message": "no"}}, self.status)
            said = self.says[min(len(self.received), len(self.says)) - 1]
            text = said if isinstance(said, str) else json.dumps(said)
            choices = [{"index": 0, "message": {"role": "assistant", "content": text}}]
            return JSONResponse({"choices": choices} | ({"usage": self.usage} if self.usage is not None else {}))

        return api


@asynccontextmanager
async def worker_with(
    vlm: Vlm, detector: BlazeFace, reader: SmallModels | None = None
) -> AsyncIterator[Callable[..., Any]]:
    """A way to ask a worker that knows this model."""
    settings = VisionSettings.load(orchestrator_url=None)
    async with serving(vlm.app()) as there:
        model = VisionModel(f"http://127.0.0.1:{there}/v1/", "tiny-vlm", KEY, 20)
        app = create_app(settings, eye_of(detector, reader), in_process(settings), model)
        async with serving(app) as port:

            async def analyze(
                picture: bytes = PHOTO, headers: Sequence[tuple[bytes, bytes]] = (), **fields: Any
            ) -> Answer:
                texts = [(name, None, _text(value)) for name, value in fields.items()]
                body = multipart(("image", "a.jpg", picture), *texts)
                kind = (b"content-type", b"multipart/form-data; boundary=soundstage")
                sent = request(b"POST", b"/v1/profile/analyze", [kind, (b"x-request-id", b"my-id"), *headers], body)
                return await ask(port, sent)

            yield analyze


@pytest.fixture(scope="module")
async def served(detector: BlazeFace) -> AsyncIterator[tuple[Vlm, Callable[..., Any]]]:
    vlm = Vlm()
    async with worker_with(vlm, detector) as analyze:
        yield vlm, analyze


@pytest.fixture
def vlm(served: tuple[Vlm, Callable[..., Any]]) -> Vlm:
    """The model of a worker that has no small models, as new."""
    served[0].renew()
    return served[0]


@pytest.fixture
def analyze(served: tuple[Vlm, Callable[..., Any]]) -> Callable[..., Any]:
    return served[1]


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


async def test_the_model_gets_exactly_what_was_sent_and_the_picture(vlm: Vlm, analyze: Any) -> None:
    answer = await analyze(**FIELDS, repair=REPAIR)
    [sent], [headers] = vlm.received, vlm.headers
    picture, text = sent["messages"][-1].pop("content")
    assert text == {"type": "text", "text": MESSAGES[-1]["content"]}
    assert (picture.pop("type"), set(picture), set(picture["image_url"])) == ("image_url", {"image_url"}, {"url"})
    assert sent == {
        "model": "tiny-vlm",
        "messages": [MESSAGES[0], {"role": "user"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "features", "schema": SCHEMA, "strict": True},
        },
        **SAMPLING,
    }
    assert (headers["authorization"], headers["x-request-id"]) == (f"Bearer {KEY}", "my-id")
    start, _, data = picture["image_url"]["url"].partition(",")
    assert start == "data:image/jpeg;base64"
    seen = base64.b64decode(data)
    assert b"canary-0815" not in seen
    with Image.open(io.BytesIO(seen)) as image:
        assert (image.format, dict(image.getexif())) == ("JPEG", {})
        assert 250 < image.width < 400  # the subject and its surroundings, not the whole picture
    body = answer.json()
    assert (body["vision_model"], body["warnings"]) == ("tiny-vlm", [])
    assert body["features"] == {
        name: {"value": value, "confidence": None, "source": "tiny-vlm"} for name, value in GOOD.items()
    }
    assert answer.header(b"x-messages-sha256") == (messages_sha256(MESSAGES) or "").encode()


MISFITS: dict[str, tuple[Any, str]] = {
    "no JSON": ("brown hair", "answer: not JSON"),
    "JSON in a fence": ("```json\n{}\n```", "answer: not JSON"),
    "a list": ([], "answer: type"),
    "a missing field": ({"hair": "brown", "glasses": True}, "answer: required"),
    "a value of its own": ({**GOOD, "hair": "secret-value"}, "hair: enum"),
    "another type": ({**GOOD, "glasses": "yes"}, "glasses: type"),
    "a long text": ({**GOOD, "clothes": "x" * 21}, "clothes: maxLength"),
    "a field of its own": ({**GOOD, "ethnicity": "secret-value"}, "answer: additionalProperties"),
    "origin in a value": ({**GOOD, "clothes": "an Asian dress"}, "clothes: private"),
    "health in a value": ({**GOOD, "clothes": "looks ill"}, "clothes: private"),
    "nothing": ("", "answer: not JSON"),
    "deep": ("[" * 100_000, "answer: not JSON"),
}


@pytest.mark.parametrize("name", MISFITS)
async def test_an_answer_that_does_not_fit_is_repaired_once(vlm: Vlm, analyze: Any, name: str) -> None:
    said, _ = MISFITS[name]
    vlm.says = [said, GOOD]
    body = (await analyze(**FIELDS, repair=REPAIR)).json()
    first, second = vlm.received
    text = said if isinstance(said, str) else json.dumps(said)
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": REPAIR}]
    assert second == {**first, "messages": [*first["messages"], *turns]}
    assert {feature: one["value"] for feature, one in body["features"].items()} == GOOD
    assert body["warnings"] == []


@pytest.mark.parametrize("repair", [None, REPAIR])
@pytest.mark.parametrize("name", MISFITS)
async def test_what_never_fits_is_reported_and_never_passed_on(
    vlm: Vlm, analyze: Any, name: str, repair: str | None
) -> None:
    said, problem = MISFITS[name]
    vlm.says = [said]
    answer = await analyze(**FIELDS, **({"repair": repair} if repair else {}))
    assert len(vlm.received) == (2 if repair else 1)
    body = answer.json()
    assert (answer.status, body["features"], body["vision_model"]) == (200, {}, None)
    [warning] = body["warnings"]
    assert (warning["code"], warning["details"]) == ("vision_model_schema", [problem])
    assert b"secret-value" not in answer.body


@pytest.mark.parametrize("status", [400, 401, 500, 503])
async def test_a_model_that_refuses_leaves_a_warning(detector: BlazeFace, reader: SmallModels, status: int) -> None:
    vlm = Vlm()
    vlm.status = status
    async with worker_with(vlm, detector, reader) as analyze:
        body = (await analyze(**FIELDS)).json()
    assert [warning["code"] for warning in body["warnings"]] == ["vision_model_unavailable"]
    assert set(body["features"]) == {"age_bracket", "expression"}


async def test_no_redirect_is_followed_and_a_model_that_is_away_is_no_error(vlm: Vlm, analyze: Any) -> None:
    other = Vlm()
    async with serving(other.app()) as there:
        vlm.elsewhere = f"http://127.0.0.1:{there}/v1/chat/completions"
        body = (await analyze(**FIELDS)).json()
    assert [warning["code"] for warning in body["warnings"]] == ["vision_model_unavailable"]
    assert other.received == []


async def test_who_looks_like_a_minor_to_any_model_is_one(detector: BlazeFace, reader: SmallModels) -> None:
    vlm = Vlm()
    vlm.says = [{**GOOD, "age_bracket": "under 18"}]
    async with worker_with(vlm, detector, reader) as analyze:
        body = (await analyze(**FIELDS)).json()
    assert body["apparent_age"] == "minor"
    assert [warning["code"] for warning in body["warnings"]] == ["apparent_minor"]
    assert body["features"]["age_bracket"]["source"] == "tiny-vlm"
    assert body["features"]["expression"]["source"] == "fer-quantized"  # what only the small models read


def feature(**given: Any) -> dict[str, Any]:
    return {**SCHEMA, "properties": {"hair": {"type": "string", "maxLength": 20, **given}}, "required": []}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ethnicity": ({"schema": {**SCHEMA, "properties": {"ethnicity": {"type": "boolean"}}}}, "forbidden_feature"),
    "skin": ({"schema": {**SCHEMA, "properties": {"skin_tone": {"type": "boolean"}}}}, "forbidden_feature"),
    "health": ({"schema": {**SCHEMA, "properties": {"health_state": {"type": "boolean"}}}}, "forbidden_feature"),
    "origin as a choice": ({"schema": feature(enum=["Asian", "other"])}, "forbidden_feature"),
    "a reference": ({"schema": feature(**{"$ref": "http://example.test/x"})}, "extra_forbidden"),
    "a pattern": ({"schema": feature(pattern="(a+)+$")}, "extra_forbidden"),
    "an open object": ({"schema": {**SCHEMA, "additionalProperties": True}}, "literal_error"),
    "a text without an end": ({"schema": {**SCHEMA, "properties": {"hair": {"type": "string"}}}}, "value_error"),
    "no schema": ({"schema": ""}, "json_invalid"),
    "messages that are none": ({"messages": "{"}, "json_invalid"),
    "no messages": ({"messages": []}, "too_short"),
    "an address in a message": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x.test"}}]}]},
        "string_type",
    ),
    "another turn last": ({"messages": [{"role": "assistant", "content": "x"}]}, "value_error"),
    "another role": ({"messages": [{"role": "tool", "content": "x"}]}, "literal_error"),
    "another model": ({"sampling": {"model": "x"}}, "extra_forbidden"),
    "a stream": ({"sampling": {"stream": True}}, "extra_forbidden"),
    "another address": ({"vlm_url": "http://example.test"}, "unknown_parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_may_not_be_asked(vlm: Vlm, analyze: Any, name: str) -> None:
    given, code = REFUSED[name]
    answer = await analyze(**{**FIELDS, **given})
    assert (answer.status, answer.error["code"]) == (400, code)
    assert answer.error["param"].startswith(next(iter(given)))
    assert vlm.received == []


async def test_without_a_model_the_question_is_not_asked_and_that_is_said(worker: int) -> None:
    texts = [(name, None, _text(value)) for name, value in FIELDS.items()]
    kind = (b"content-type", b"multipart/form-data; boundary=soundstage")
    body = multipart(("image", "a.jpg", PHOTO), *texts)
    answer = (await ask(worker, request(b"POST", b"/v1/profile/analyze", [kind], body))).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["no_vision_model"]
    assert set(answer["features"]) == {"age_bracket", "expression"}


async def test_the_recipe_that_ships_is_a_question_that_may_be_asked(vlm: Vlm, analyze: Any) -> None:
    recipes = {source.name: source for source in read_folder(SEED)}
    sampling = dict(recipes["profile.describe"].sampling)
    schema = sampling.pop("response_format")["json_schema"]["schema"]
    messages = [{"role": m.role, "content": m.body} for m in recipes["profile.describe"].messages]
    said = {name: one.get("enum", ["plain"])[0] for name, one in schema["properties"].items()}
    vlm.says = [{**said, "age_bracket": "30 to 44"}]
    answer = await analyze(messages=messages, schema=schema, sampling=sampling)
    assert (answer.status, answer.json()["apparent_age"]) == (200, "adult")
    asked_for = " ".join(schema["properties"])
    assert all(word not in asked_for for word in ("gender", "sex", "ethnic", "race", "skin", "health", "weight"))


async def test_a_portrait_is_upright_clean_and_given_only_where_asked(detector: BlazeFace, analyze: Any) -> None:
    sideways = encoded(photo(ASTRONAUT).rotate(90), "JPEG", exif=exif(orientation=6, make="canary-0815"))
    assert (await analyze(sideways)).json()["portrait"] is None
    data = base64.b64decode((await analyze(sideways, portrait="true")).json()["portrait"])
    assert b"canary-0815" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, dict(image.getexif())) == ("JPEG", {})
        [[face]] = detector.detect([pixels(image)])
        assert abs(face.landmarks.left_eye.y - face.landmarks.right_eye.y) < face.box.width / 5


async def test_what_the_model_took_is_told_last(vlm: Vlm, analyze: Callable[..., Any]) -> None:
    """The repair with it; the trace of the request reaches the model."""
    vlm.says, vlm.usage = ["no JSON", GOOD], {"prompt_tokens": 400, "completion_tokens": 30, "total_tokens": 430}
    answer = await analyze(**FIELDS, repair=REPAIR)
    usage = {"prompt_tokens": 800, "completion_tokens": 60, "total_tokens": 860}
    assert answer.json()["usage"] == usage
    assert answer.body.endswith(json.dumps(usage, separators=(",", ":")).encode() + b"}")


ODD_USAGE: dict[str, Any] = {
    "nothing": None,
    "no object": [1],
    "no numbers": {"prompt_tokens": "9", "completion_tokens": None},
    "less than nothing": {"prompt_tokens": -9},
}


@pytest.mark.parametrize("usage", ODD_USAGE.values(), ids=ODD_USAGE.keys())
async def test_a_model_that_counts_nothing_counts_as_nothing(vlm: Vlm, analyze: Callable[..., Any], usage: Any) -> None:
    vlm.usage = usage
    told = (await analyze(**FIELDS)).json()
    assert (told["features"]["hair"]["value"], told["usage"]["total_tokens"]) == ("brown", 0)


async def test_the_requests_trace_reaches_the_model(vlm: Vlm, analyze: Callable[..., Any]) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await analyze(**FIELDS, headers=[(b"traceparent", trace.encode())])
    assert vlm.headers[0]["traceparent"] == trace
