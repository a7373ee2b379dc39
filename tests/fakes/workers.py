"""The workers of the tests: one script for each kind, played by tests/fakes/scripted_worker.py."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request

from core.http.form import Field, read_form
from tests.fakes import answers
from tests.fakes.scripted_worker import Call, ScriptedWorker

CHAT, RESPONSES, MODERATIONS = "/v1/chat/completions", "/v1/responses", "/v1/moderations"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
USAGE = answers.usage(5, 2)

# -- chat -------------------------------------------------------------------------------------------------------------


def token_ids(messages: list[dict[str, Any]]) -> list[int]:
    """A tokenizer of its own: one id for each byte."""
    return list(json.dumps(messages).encode())


def stands_for(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a /v1/responses body, as vLLM makes them."""
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    head = body.get("instructions")
    return [{"role": "system", "content": head}, *messages] if head else messages


class ProvingWorker(ScriptedWorker):
    """A chat worker that says what it ran: the hash of its messages, and token ids where they are asked for. Its answer
    repeats the last message."""

    def __init__(self) -> None:
        super().__init__({CHAT: self._chat, RESPONSES: self._respond}, beside={"/tokenize": self._tokenize})

    def messages(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return stands_for(body) if "input" in body else body["messages"]

    def _tokenize(self, call: Call) -> dict[str, Any]:
        ids = token_ids(call.body["messages"])
        return {"count": len(ids), "tokens": ids}

    def _text(self, body: dict[str, Any]) -> str:
        return f"seed {body.get('seed')}: {self.messages(body)[-1]['content']}"

    def _chat(self, call: Call) -> Any:
        body = call.body
        if body.get("stream"):
            return self._chunks(body)
        answer = answers.completion(body["model"], self._text(body))
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = token_ids(body["messages"])
            answer["choices"][0]["token_ids"] = [1, 2]
        return answer

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        for number, word in enumerate(self._text(body).split()):
            piece = answers.chunk(body["model"], word if number == 0 else f" {word}")
            if body.get("return_token_ids"):
                piece["choices"][0]["token_ids"] = [number]
                piece["prompt_token_ids"] = token_ids(body["messages"]) if number == 0 else None
            yield answers.event(piece)
            await asyncio.sleep(0)
        yield answers.DONE

    def _respond(self, call: Call) -> Any:
        body, text = call.body, self._text(call.body)
        ids = [{"type": "raw_message_tokens", "tokens": token_ids(stands_for(body))}]
        proof: dict[str, Any] = {}
        if body.get("enable_response_messages"):
            proof = {"input_messages": ids, "output_messages": []}
        whole = answers.response(body["model"], (text[:5], text[5:]), **proof)
        return self._events(whole) if body.get("stream") else whole

    async def _events(self, whole: dict[str, Any]) -> AsyncIterator[bytes]:
        at = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
        begun = {**whole, "output": [], "input_messages": None}
        yield answers.named("response.created", {"sequence_number": 0, "response": begun})
        for number, part in enumerate(whole["output"][0]["content"], 1):
            delta = {"sequence_number": number, "delta": part["text"], **at}
            yield answers.named("response.output_text.delta", delta)
        yield answers.named("response.completed", {"sequence_number": 3, "response": whole})


CAPTION = "Two friends watch a small red boat cross the quiet lake at dusk."


def expansion(prompt: str, intent: str = "a boat", safety: str = "safe") -> str:
    return json.dumps({"intent": intent, "prompt": prompt, "safety": safety})


class StoryWorker(ScriptedWorker):
    """A chat worker for pipelines: `expand` is its answer to a first step, or makes it of the request's body; of
    `captions` it gives one after the other, and goes on with the last."""

    def __init__(self) -> None:
        super().__init__({CHAT: self._chat})
        self.silent = True
        self.expand: str | Callable[[dict[str, Any]], str] = expansion("a red boat on a lake")
        self.captions: list[str] = [CAPTION]

    def asked(self, caption: bool) -> list[dict[str, Any]]:
        """The bodies of one kind."""
        return [body for body in self.received if _is_caption(body) == caption]

    def _chat(self, call: Call) -> Any:
        return answers.completion(call.body["model"], self._text(call.body), usage=USAGE)

    def _text(self, body: dict[str, Any]) -> str:
        if _is_caption(body):
            return self.captions[min(len(self.asked(caption=True)), len(self.captions)) - 1]
        return self.expand if isinstance(self.expand, str) else self.expand(body)


def _is_caption(body: dict[str, Any]) -> bool:
    return str(body["messages"][-1]["content"]).startswith("Seen: ")


BAD = "zzguarded"


class GuardModel(ScriptedWorker):
    """A guard that finds `BAD`, in the shape of moderations and, with `words`, in those of the guards there are."""

    def __init__(self) -> None:
        super().__init__({MODERATIONS: self._moderate, CHAT: self._chat})
        self.words = "unsafe\nS1"
        self.category = "violence"

    @property
    def asked(self) -> list[str]:
        """Every text, in order."""
        return [text for body in self.received for text in body.get("input") or [body["messages"][-1]["content"]]]

    def _moderate(self, call: Call) -> Any:
        results = [{"flagged": BAD in text, "categories": {self.category: BAD in text}} for text in call.body["input"]]
        return {"id": "modr", "model": "guard", "results": results}

    def _chat(self, call: Call) -> Any:
        bad = BAD in call.body["messages"][-1]["content"]
        return answers.completion(call.body["model"], self.words if bad else "safe")


# -- pictures ---------------------------------------------------------------------------------------------------------

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n a picture").decode()
PREVIEW = base64.b64encode(b"\x89PNG\r\n\x1a\n a preview").decode()
SEED = 11


def picture(at: int) -> str:
    return base64.b64encode(b"\x89PNG\r\n\x1a\n picture %d" % at).decode()


class ImageWorker(ScriptedWorker):
    """It answers with `pictures`; a stream ends when `partial_seen` is set. What it `has` of earlier requests it says
    when it is asked, by key; `called_off` are those that it was told to leave."""

    def __init__(self, model: str = "tiny-image") -> None:
        beside = {"/v1/images/find": self._find, "/v1/images/cancel": self._cancel}
        super().__init__({GENERATIONS: self.draw, EDITS: self.draw}, beside=beside)
        self.model = model
        self.has: set[str] = set()
        self.called_off: list[str] = []
        self.partial_seen = asyncio.Event()
        self.pictures: list[dict[str, Any]] = [{"b64_json": PICTURE}]

    def _find(self, call: Call) -> dict[str, str | None]:
        return {"found": "running" if call.headers["idempotency-key"] in self.has else None}

    def _cancel(self, call: Call) -> dict[str, bool]:
        self.called_off.append(call.headers["idempotency-key"])
        return {"cancelled": True}

    def draw(self, call: Call) -> Any:
        if call.body.get("stream") in (True, "true"):
            return self._stream("image_edit" if call.path == EDITS else "image_generation")
        return {"created": 1, "data": self.pictures}

    async def _stream(self, kind: str) -> AsyncIterator[bytes]:
        yield answers.named(f"{kind}.partial_image", {"partial_image_index": 0, **self.pictures[0]})
        await self.partial_seen.wait()
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        yield answers.named(f"{kind}.completed", {"usage": usage, **self.pictures[0]})


class DrawingWorker(ImageWorker):
    """It draws as many pictures as it is asked for, and shows previews; the pictures come when `seen` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    def draw(self, call: Call) -> Any:
        images = range(int(call.body.get("n", 1)))
        if call.body.get("stream"):
            return self.events(images, int(call.body["partial_images"]))
        data = [{"b64_json": picture(at), "seed": SEED + at} for at in images]
        return {"created": 1, "data": data, "steps": 4}

    async def events(self, images: range, previews: int) -> AsyncIterator[bytes]:
        for index in range(previews):
            for at in images:
                preview = {"b64_json": PREVIEW, "partial_image_index": index, "image_index": at}
                yield answers.named("image_generation.partial_image", preview)
        await self.seen.wait()
        for at in reversed(images):
            whole = {"b64_json": picture(at), "image_index": at, "seed": SEED + at, "steps": 4}
            yield answers.named("image_generation.completed", whole)


class GatedEngines(ScriptedWorker):
    """A chat worker, and below /draw an image worker, with a gate before each of these steps."""

    caption = "Here is the quiet picture that you asked me for, made just for you."

    def __init__(self, *steps: str) -> None:
        super().__init__({CHAT: self._chat, f"/draw{GENERATIONS}": self._draw})
        self.silent = True
        self.gates = {step: asyncio.Event() for step in steps}

    def _chat(self, call: Call) -> Any:
        return answers.completion("small", self.caption, usage=answers.usage(1, 1))

    def _draw(self, call: Call) -> Any:
        return {"created": 1, "data": [{"b64_json": PICTURE, "seed": 7}], "steps": 4}


# -- selfies ----------------------------------------------------------------------------------------------------------

_FIELDS = {
    "image": Field(32 << 20, file=True),
    **{name: Field(1 << 20) for name in ("messages", "schema", "sampling", "repair", "portrait")},
}
PORTRAIT = b"\xff\xd8\xff\xe0 a portrait"
FACE = {"found": True, "quality_score": 0.8}


class SelfieWorker(ScriptedWorker):
    """It answers with a set analysis, and reads forms as the real one does: in memory."""

    def __init__(self) -> None:
        super().__init__({"/v1/profile/analyze": self._analyze})
        self.code = "set_to_fail"
        self.answer: dict[str, Any] = {
            "features": {"expression": {"value": "smiling", "confidence": 0.9, "source": "small"}},
            "face": FACE,
            "image": {"width": 64, "height": 64},
            "apparent_age": "adult",
            "vision_model": None,
            "warnings": [],
            "portrait": None,
        }

    async def form(self, request: Request) -> dict[str, Any]:
        fields = await read_form(request.headers["content-type"], request.stream(), _FIELDS, 20)
        return {name: bytes(value) for name, value in fields.items()}

    def messages(self, body: dict[str, Any]) -> list[dict[str, Any]] | None:
        return json.loads(body["messages"]) if "messages" in body else None

    def _analyze(self, call: Call) -> Any:
        portrait = base64.b64encode(PORTRAIT).decode() if call.body.get("portrait") == b"true" else None
        return {**self.answer, "portrait": portrait or self.answer["portrait"]}
