"""Asking a vision-language model: any OpenAI-compatible server at the address in the settings, and at no other.

It gets exactly the messages that came with the request, the picture beside the last one, and the schema as
`response_format`. An answer that does not fit is repaired once, by the words that were sent for that, or left out.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import msgspec

from core import untrusted
from core.errors import SoundstageError, Upstream
from core.usage import Usage, read_whole
from vision import metrics
from vision.questions import Question, check_answer

MAX_ANSWER = 256 << 10  # bytes


NOTHING_USED = Usage()


@dataclass(frozen=True)
class VisionAnswer:
    """`problems` says why there are no features: places and rules of the schema."""

    features: dict[str, str | bool] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    failed: bool = False  # it could not be asked
    usage: Usage = NOTHING_USED


class VisionModel:
    """A client of one server; enter it before asking."""

    def __init__(self, url: str, model: str, key: str | None, seconds: float) -> None:
        self.name = model
        self._url = url.rstrip("/") + "/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=seconds)

    async def __aenter__(self) -> Self:
        self._session = untrusted.session(timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, question: Question, jpeg: bytes, request_id: str, trace: str | None = None) -> VisionAnswer:
        """ask → check → repair once. Never raises for what the model does: a photo is judged without it, too. `trace`:
        the request's `traceparent`."""
        messages, usage = with_picture(question.messages, jpeg), NOTHING_USED
        told = {"x-request-id": request_id} | ({"traceparent": trace} if trace else {})
        try:
            text, usage = await self._complete(messages, question, told)
            features, problems = check_answer(question.schema, text)
            if problems and question.repair is not None:
                metrics.REPAIRS.inc()
                turns = [{"role": "assistant", "content": text}, {"role": "user", "content": question.repair}]
                text, more = await self._complete([*messages, *turns], question, told)
                usage = Usage(usage.input + more.input, usage.output + more.output)
                features, problems = check_answer(question.schema, text)
        except (aiohttp.ClientError, TimeoutError, SoundstageError, OSError):
            return VisionAnswer(failed=True, usage=usage)
        return VisionAnswer(features, tuple(problems), usage=usage)

    async def _complete(
        self, messages: list[dict[str, Any]], question: Question, told: Mapping[str, str]
    ) -> tuple[str, Usage]:
        """The text of the first choice, and what it took. Raises Upstream for an answer that is none."""
        schema = {"name": "features", "schema": question.schema, "strict": True}
        body = {
            "model": self.name,
            "messages": messages,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **question.sampling,
        }
        headers = {"content-type": "application/json", **told}
        sent = msgspec.json.encode(body)
        async with self._session.post(self._url, data=sent, headers=headers, allow_redirects=False) as response:
            raw = await untrusted.read_bytes(response, MAX_ANSWER)
            if response.status != 200:
                raise Upstream("The vision model refused.", code="vision_model_failed")
        return _content(untrusted.decoded(raw)), read_whole(raw) or NOTHING_USED


def with_picture(messages: list[dict[str, str]], jpeg: bytes) -> list[dict[str, Any]]:
    """The messages as they are, but the last one's text after the picture."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}}
    last = {**messages[-1], "content": [picture, {"type": "text", "text": messages[-1]["content"]}]}
    return [*messages[:-1], last]


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (LookupError, TypeError) as exc:
        raise Upstream("The vision model's answer could not be read.", code="vision_model_failed") from exc
    return content if isinstance(content, str) else ""


def merged(read: Mapping[str, Any], told: Mapping[str, str | bool], model: str) -> dict[str, dict[str, Any]]:
    """Features by name: what the vision model told, and what only the small models read. A face that either takes for a
    minor's is a minor's."""
    features = {name: {"value": value, "confidence": None, "source": model} for name, value in told.items()}
    found = {**read, **features}
    if read.get("age_bracket", {}).get("value") == "under 18":
        found["age_bracket"] = read["age_bracket"]
    return found
