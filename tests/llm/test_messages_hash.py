"""X-Messages-SHA256 of the chat worker, against a canonical form (RFC 8785) that is computed here in another way."""

import hashlib
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.chat_worker import ChatWorker, chat_worker, instruct
from tests.fakes.client import ask, request


@pytest.fixture(scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChatWorker]:
    folder = tmp_path_factory.mktemp("worker")
    async with chat_worker(folder, [instruct(folder)]) as running:
        yield running


def number(value: float) -> str:
    """As ECMAScript writes it: the shortest digits that read back, placed by its own rules."""
    if value == 0:
        return "0"
    digits = exponent = ""
    for precision in range(18):
        digits, exponent = f"{abs(value):.{precision}e}".split("e")
        if float(f"{digits}e{exponent}") == abs(value):
            break
    whole, point = digits.replace(".", "").rstrip("0") or "0", int(exponent) + 1
    if len(whole) <= point <= 21:
        text = whole.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{whole[:point]}.{whole[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + whole
    else:
        fraction = f".{whole[1:]}" if len(whole) > 1 else ""
        text = f"{whole[0]}{fraction}e{point - 1:+d}"
    return "-" + text if math.copysign(1, value) < 0 else text


def text(value: str) -> str:
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'


def canonical(value: Any) -> str:
    """RFC 8785, from its text: keys in the order of their UTF-16 code units."""
    if isinstance(value, dict):
        keys = sorted(
            value, key=lambda key: struct.unpack(f">{len(key.encode('utf-16-be')) // 2}H", key.encode("utf-16-be"))
        )
        return "{" + ",".join(f"{text(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return number(value)


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def said(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


AWKWARD: dict[str, list[dict[str, Any]]] = {
    "plain": said("Hello"),
    "escapes": said('"\\/\b\f\n\r\t\x01\x1f\x7f\u0080'),
    "separators": said("a\u2028b\u2029c\u00a0d\ufeffe"),
    "not normalised": said("e\u0301 \u00e9 \u1100\u1161 \uac00 \ufb01"),
    "astral": said("😀 𝒳 🏳️‍🌈"),
    "keys by UTF-16 and not by code points": said(
        "x", **{"\ue000": "a", "😀": "b", "z": "c", "\u20ac": "d", "\r": "e"}
    ),
    "numbers": said([{"n": n} for n in (0, -0.0, 1.0, 10, 1e21, 1e20, 1.2345678901234568e20, 0.1, 1e-6, 1e-7, 5e-324)]),
    "more numbers": said([1.7976931348623157e308, 333333333.3333333, 4.5, 2e-3, 1e23, 9007199254740991, -1.5e-10]),
    "nothing": said(None, empty="", none=[], true=True, false=False, more={}),
    "parts": said([{"type": "text", "text": "ä"}, {"type": "image_url", "image_url": {"url": "x", "detail": None}}]),
    "several": [*said("ü"), {"content": "b", "role": "assistant"}, *said("漢字")],
    "no messages": [],
}


@pytest.mark.parametrize("ascii_only", [False, True], ids=["as it is", "escaped"])
@pytest.mark.parametrize("messages", AWKWARD.values(), ids=AWKWARD.keys())
async def test_the_worker_reports_the_hash_of_what_it_received(
    worker: ChatWorker, messages: list[dict[str, Any]], ascii_only: bool
) -> None:
    """However the sender spelt it: spaces and escapes do not take part."""
    body = json.dumps(
        {"model": "small", "messages": messages}, ensure_ascii=ascii_only, indent=1 if ascii_only else None
    )
    answer = await ask(worker.port, request(b"POST", b"/v1/chat/completions", (), body.encode()))
    assert answer.header(b"x-messages-sha256") == digest(messages).encode()


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({"input": "Hällo"}, said("Hällo")),
        ({"input": "Hi", "instructions": "Be brief."}, [{"role": "system", "content": "Be brief."}, *said("Hi")]),
        ({"input": said("a"), "instructions": ""}, said("a")),
        (
            {"input": said([{"type": "input_text", "text": "a"}]), "instructions": None},
            said([{"type": "input_text", "text": "a"}]),
        ),
    ],
)
async def test_a_response_is_hashed_as_the_messages_it_stands_for(
    worker: ChatWorker, body: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    sent = json.dumps({"model": "small", **body}).encode()
    answer = await ask(worker.port, request(b"POST", b"/v1/responses", (), sent))
    assert answer.header(b"x-messages-sha256") == digest(messages).encode()


async def test_what_has_no_canonical_form_has_no_hash(worker: ChatWorker) -> None:
    for content, status in (("\ud800", 400), ([2**53], 200)):
        body = json.dumps({"model": "small", "messages": said(content)}).encode()
        answer = await ask(worker.port, request(b"POST", b"/v1/chat/completions", (), body))
        assert (answer.status, answer.header(b"x-messages-sha256")) == (status, None)
