"""What a caller sees of each fault of a worker: the table of docs/gateway.md, against the whole orchestrator.

Every test serves a model of its own, so one studio does for all. What the relay does by itself: tests/core/test_relay*.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import fresh_database
from tests.fakes.client import Answer, ask, connected, request
from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.fakes.upstream import Exchange, Script, Upstream, recording_upstream, saying, then
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b'{"choices":[{"message":{"content":"one"}}]}'
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
GOOD = saying(JSON % len(WHOLE) + WHOLE)
_numbers = itertools.count(1)


@asynccontextmanager
async def _lasting(server: str, template: str, folder: Path, **given: Any) -> AsyncIterator[Studio]:
    async with (
        fresh_database(server, template=template) as dsn,
        studio_over(dsn, folder, **given) as running,
    ):
        yield running


@pytest.fixture(scope="module")
async def studio(postgres_server: str, _seeded: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Studio]:
    async with _lasting(postgres_server, _seeded, tmp_path_factory.mktemp("patient")) as running:
        yield running


@pytest.fixture(scope="module")
async def impatient(
    postgres_server: str, _seeded: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Studio]:
    """It gives an engine little time: only for engines that hang."""
    given = {"first_byte_seconds": 0.2, "idle_seconds": 0.2}
    async with _lasting(postgres_server, _seeded, tmp_path_factory.mktemp("impatient"), **given) as running:
        yield running


@dataclass
class Model:
    """A model of its own for a test: no other worker answers for it."""

    studio: Studio
    name: str

    async def at(self, worker: str, url: object, **announced: Any) -> None:
        served = [{"id": self.name, "abilities": ["chat"]}]
        answer = await self.studio.register(f"{worker}-{self.name}", str(url), models=served, **announced)
        assert answer.status_code == 200, answer.text

    def said(self, *, stream: bool = False) -> bytes:
        messages = [{"role": "user", "content": "Hi"}]
        body = json.dumps({"model": self.name, "messages": messages, "stream": stream}).encode()
        headers = [(b"Authorization", b"Bearer " + self.studio.key.encode())]
        return request(b"POST", b"/v1/chat/completions", headers, body)

    async def asked(self, *, stream: bool = False) -> Answer:
        return await ask(self.studio.port, self.said(stream=stream))


def model_of(studio: Studio) -> Model:
    return Model(studio, f"m-{next(_numbers)}")


@pytest.fixture
async def others() -> AsyncIterator[Upstream]:
    """A second worker, which does as it should."""
    async with recording_upstream() as running:
        running.script = GOOD
        yield running


async def endless_headers(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        await exchange.write(b"x-%d: %b\r\n" % (number, b"v" * 1000))
    raise AssertionError("100 MB of headers were read")


async def one_endless_header(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nx-long: ")
    for _ in range(100_000):
        await exchange.write(b"v" * 1000)
    raise AssertionError("a header of 100 MB was read")


BEFORE: dict[str, tuple[Script, int, str]] = {
    "dies before headers": (then("close"), 503, "engine_unavailable"),
    "resets": (then("reset"), 503, "engine_unavailable"),
    "resets within its headers": (then("reset", JSON[:30]), 503, "engine_unavailable"),
    "says 503": (saying(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"), 503, "engine_unavailable"),
    "not HTTP": (then("close", b"220 mail ready\r\n\r\n"), 502, "bad_upstream_answer"),
    "headers without end": (endless_headers, 502, "bad_upstream_answer"),
    "one header without end": (one_endless_header, 502, "bad_upstream_answer"),
    "a length that is no number": (
        then("close", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        502,
        "bad_upstream_answer",
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("script", "status", "code"), BEFORE.values(), ids=BEFORE.keys())
async def test_before_the_answer_begins_it_is_the_envelope(
    studio: Studio, upstream: Upstream, script: Script, status: int, code: str, stream: bool
) -> None:
    model = model_of(studio)
    upstream.script = script
    await model.at("bad", upstream.url)
    answer = await model.asked(stream=stream)
    assert (answer.status, answer.error["code"], answer.whole) == (status, code, True)
    assert (answer.header(b"retry-after") is not None) == (status == 503)
    assert len(upstream.received) == 1


@pytest.mark.parametrize("name", [name for name, (_, status, _) in BEFORE.items() if status == 503])
async def test_and_another_worker_answers_where_that_is_safe(
    studio: Studio, upstream: Upstream, others: Upstream, name: str
) -> None:
    model = model_of(studio)
    upstream.script = BEFORE[name][0]
    await model.at("a-bad", upstream.url)
    await model.at("b-good", others.url)
    answer = await model.asked()
    assert (answer.status, answer.body) == (200, WHOLE)
    assert (len(upstream.received), len(others.received)) == (1, 1)


STREAMS: dict[str, tuple[Script, bytes, bool]] = {
    "dies after headers": (then("close", SSE), b"", True),
    "dies mid-stream": (then("close", SSE, CHUNK), EVENT, True),
    "resets mid-stream": (then("reset", SSE, CHUNK), EVENT, True),
    "dies within an event": (then("close", SSE, CHUNK, b"8\r\ndata: {\n\r\n"), EVENT + b"data: {\n", False),
}


@pytest.mark.parametrize(("script", "said", "event"), STREAMS.values(), ids=STREAMS.keys())
async def test_a_stream_that_breaks_says_so_and_is_not_begun_again(
    studio: Studio, upstream: Upstream, others: Upstream, script: Script, said: bytes, event: bool
) -> None:
    model = model_of(studio)
    upstream.script = script
    await model.at("a-bad", upstream.url)
    await model.at("b-good", others.url)
    answer = await model.asked(stream=True)
    assert answer.status == 200
    assert answer.whole is event, "without an event that says so its framing has no end"
    assert answer.body.startswith(said)
    assert (b'"code":"upstream_closed"' in answer.body) is event
    assert others.received == []


CUT: dict[str, tuple[Script, bytes]] = {
    "dies after headers": (then("close", JSON % 1000), b""),
    "dies mid-answer": (then("close", JSON % 1000, WHOLE), WHOLE),
    "promises more than it says": (then("close", JSON % (len(WHOLE) + 1), WHOLE), WHOLE),
}


@pytest.mark.parametrize(("script", "said"), CUT.values(), ids=CUT.keys())
async def test_a_whole_answer_that_breaks_is_cut_where_a_client_sees_it(
    studio: Studio, upstream: Upstream, script: Script, said: bytes
) -> None:
    model = model_of(studio)
    upstream.script = script
    await model.at("bad", upstream.url)
    answer = await model.asked()
    assert (answer.status, answer.body, answer.whole) == (200, said, False)


async def test_an_answer_that_is_no_json_passes_as_it_is(studio: Studio, upstream: Upstream) -> None:
    """The relay passes bytes; what the studio reads itself, for a recipe, is a 502."""
    model = model_of(studio)
    upstream.script = saying(JSON % 3 + b"{no")
    await model.at("bad", upstream.url)
    assert (await model.asked()).body == b"{no"
    await Model(studio, "qwen_instruct").at("bad", upstream.url)
    body = {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await studio.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_upstream_answer")


EXTRA = {
    "at once": (JSON % 2 + b"{}" + JSON % 7 + b'"other"',),
    "after the body": (JSON % 2 + b"{", b"}" + JSON % 7 + b'"other"'),
    "of no protocol": (JSON % 2 + b"{", b"} and more"),
    "in a stream": (SSE + CHUNK, b"0\r\n\r\n" + JSON % 7 + b'"other"'),
}


@pytest.mark.parametrize("parts", EXTRA.values(), ids=EXTRA.keys())
async def test_what_a_worker_says_beyond_its_answer_reaches_nobody(
    studio: Studio, upstream: Upstream, parts: tuple[bytes, ...]
) -> None:
    """A length that is too short must not make the rest the next caller's answer."""
    model = model_of(studio)
    await model.at("bad", upstream.url)

    async def script(exchange: Exchange) -> None:
        head, *rest = parts
        await exchange.write(head)
        for part in rest:
            await soon(began.wait())
            await exchange.write(part)

    upstream.script, began = script, asyncio.Event()
    async with connected(studio.port) as client:
        await client.send(model.said())
        head = await client.head()
        began.set()
        first = await client.chunk() if head.header(b"content-length") is None else await client.exactly(2)
    assert first in (b"{}", EVENT)
    upstream.script = GOOD
    for _ in range(3):
        assert (await model.asked()).body == WHOLE


HANGS: dict[str, tuple[Script, bool, int, bytes]] = {
    "before headers": (then("hang"), False, 504, b'"code":"upstream_timeout"'),
    "before headers of a stream": (then("hang"), True, 504, b'"code":"upstream_timeout"'),
    "after headers": (then("hang", SSE), True, 200, b'"code":"upstream_timeout"'),
    "mid-stream": (then("hang", SSE, CHUNK), True, 200, b'"code":"upstream_timeout"'),
    "mid-answer": (then("hang", JSON % 1000, WHOLE), False, 200, WHOLE),
}


async def test_an_engine_that_hangs_is_left_in_time_and_never_asked_again(impatient: Studio) -> None:
    """All at once: each waits."""

    async def hangs(script: Script, stream: bool) -> Answer:
        model = model_of(impatient)
        async with recording_upstream() as bad, recording_upstream() as good:
            bad.script = script
            await model.at("a-bad", bad.url)
            await model.at("b-good", good.url)
            answer = await model.asked(stream=stream)
            assert (len(bad.received), len(good.received)) == (1, 0)
            return answer

    found = await asyncio.gather(*(hangs(script, stream) for script, stream, _, _ in HANGS.values()))
    for (name, (_, _, status, said)), answer in zip(HANGS.items(), found, strict=True):
        assert answer.status == status, name
        assert said in answer.body, name
        assert answer.whole is (name != "mid-answer"), name


async def test_an_engine_of_500s_is_passed_on_then_left_alone(
    studio: Studio, upstream: Upstream, others: Upstream
) -> None:
    """A 500 may have cost something, so none is tried again; after three in a row the others get the work."""
    model = model_of(studio)
    upstream.script = saying(b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}")
    await model.at("a-bad", upstream.url)
    await model.at("b-good", others.url)
    seen = [(await model.asked()).status for _ in range(8)]
    assert seen == [500, 500, 500, 200, 200, 200, 200, 200]


async def test_a_slow_engine_slows_nobody_else(studio: Studio, upstream: Upstream, others: Upstream) -> None:
    """Its answer comes piece by piece as it says it; meanwhile the other worker answers."""
    model = model_of(studio)
    go_on = asyncio.Queue[None]()

    async def slowly(exchange: Exchange) -> None:
        await exchange.write(SSE)
        for _ in range(3):
            await soon(go_on.get())
            await exchange.write(CHUNK)
        await exchange.write(b"0\r\n\r\n")

    upstream.script = slowly
    await model.at("a-slow", upstream.url, capacity=1)
    await model.at("b-good", others.url, capacity=1)
    async with connected(studio.port) as client:
        await client.send(model.said(stream=True))
        await client.head()
        for _ in range(3):
            assert (await model.asked()).body == WHOLE
            go_on.put_nowait(None)
            assert await client.chunk() == EVENT
        assert await client.chunk() == b""
    assert (len(upstream.received), len(others.received)) == (1, 3)


async def test_two_of_three_workers_vanish(studio: Studio) -> None:
    """No request fails; whoever is gone is asked once and then left out."""
    model = model_of(studio)
    async with AsyncExitStack() as stays, AsyncExitStack() as goes:
        left = await stays.enter_async_context(recording_upstream())
        gone = [await goes.enter_async_context(recording_upstream()) for _ in range(2)]
        for number, each in enumerate([*gone, left]):
            each.script = GOOD
            await model.at(f"w{number}", each.url)
        before = await asyncio.gather(*(model.asked() for _ in range(12)))
        assert all(each.received for each in (*gone, left))
        await goes.aclose()
        after = await asyncio.gather(*(model.asked() for _ in range(24)))
        assert {answer.status for answer in (*before, *after)} == {200}
        served = sum(len(each.received) for each in (*gone, left))
        assert served == 36


async def test_a_worker_comes_back_under_a_new_address(studio: Studio, others: Upstream) -> None:
    """It is asked there at once, also where its old address had failed."""
    model = model_of(studio)
    async with recording_upstream() as old:
        old.script = GOOD
        await model.at("pod", old.url)
        assert (await model.asked()).status == 200
    assert (await model.asked()).status == 503, "nobody listens there any more"
    await model.at("pod", others.url)
    assert [(await model.asked()).status for _ in range(3)] == [200] * 3
    assert len(others.received) == 3


async def test_a_worker_that_came_back_takes_its_share(studio: Studio, upstream: Upstream, others: Upstream) -> None:
    """The breaker was its old address's: a new one begins with a clean record."""
    model = model_of(studio)
    upstream.script = GOOD
    await model.at("a-pod", "http://127.0.0.1:9")
    await model.at("b-stays", upstream.url)
    assert [(await model.asked()).status for _ in range(3)] == [200] * 3
    await model.at("a-pod", others.url)
    for _ in range(4):
        assert (await model.asked()).status == 200
    assert others.received


async def test_a_new_process_of_the_worker_replaces_the_old(studio: Studio, others: Upstream) -> None:
    """It announces itself by a new name; the old one is left out as soon as nobody answers there."""
    model = model_of(studio)
    async with recording_upstream() as old:
        old.script = GOOD
        await model.at("first", old.url)
        assert (await model.asked()).status == 200
    await model.at("second", others.url)
    assert [(await model.asked()).status for _ in range(6)] == [200] * 6


async def test_no_fault_leaves_a_request_behind(studio: Studio, impatient: Studio) -> None:
    """After all of the above every place was given back."""
    for each in (studio, impatient):

        async def idle(studio: Studio = each) -> bool:
            workers = (await studio.get("/v1/workers", key=WORKER_KEY)).json()["data"]
            return bool(workers) and not any(worker["outstanding"] for worker in workers)

        await answers(idle, "an idle studio")
