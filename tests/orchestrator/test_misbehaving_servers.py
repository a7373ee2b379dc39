"""Whatever a worker or another server answers, it is that server's failure: no watcher ends, no caller gets a 500."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from core.http import transport
from orchestrator.legacy.queue_commands import Commands, QueueAwayError, over_redis, over_upstash
from orchestrator.legacy.queue_sources import ListSource, Source, StreamSource
from tests.fakes.misbehaving import EVENTS, FAULTS, answer
from tests.fakes.studio import CHAT_ABILITIES, Studio, studio_over
from tests.fakes.upstream import Upstream as Server
from tests.fakes.upstream import recording_upstream, saying
from tests.fakes.wait import answers, eventually, soon

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "Hi"}]
HEALTHY = answer(b'{"object": "list", "data": [{"id": "sound"}]}')


async def test_no_answer_to_a_probe_ends_the_studio(migrated_dsn: str, tmp_path: Path) -> None:
    """One registered server and one worker that announces itself for each fault; then they answer as they should."""
    async with AsyncExitStack() as stack:
        studio = await stack.enter_async_context(
            studio_over(migrated_dsn, tmp_path, probe_seconds=0.05, ready_probe_seconds=0.05, probe_timeout_seconds=5)
        )
        servers: list[Server] = []
        for number, script in enumerate(FAULTS.values()):
            for announced in (False, True):
                server = await stack.enter_async_context(recording_upstream())
                server.script = script
                url = str(server.url).rstrip("/")
                if announced:
                    models = [{"id": "sound", "abilities": ["chat"]}]
                    accepted = await studio.register(f"w{number}", url, models=models)
                else:
                    accepted = await studio.post("/v1/workers", {"name": f"s{number}", "url": url, "models": []})
                assert accepted.status_code == 200, accepted.text
                servers.append(server)
        for server in servers:
            await eventually(lambda server=server: len(server.received) >= 3, "a third probe")  # type: ignore[misc]
        assert (await studio.get("/readyz")).json()["database"]
        for server in servers:
            server.script = saying(HEALTHY)
        wanted = {f"engine:s{number}" for number in range(len(FAULTS))}

        async def all_there() -> bool:
            listed = (await studio.get("/v1/workers")).json()["data"]
            return wanted <= {each["id"] for each in listed if each["breaker"] != "open"}

        await answers(all_there, "the servers that answer as they should")


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "relayed": ("/v1/chat/completions", {"model": "sound", "messages": HI}),
    "older, pure": ("/chat", {"model": "sound", "messages": HI}),
    "a recipe": ("/v1/chat/completions", {"prompt": {"id": "chat_conversation"}, "messages": HI}),
    "a recipe, in events": (
        "/v1/chat/completions",
        {"prompt": {"id": "chat_conversation"}, "messages": HI, "stream": True},
    ),
    "responses": ("/v1/responses", {"prompt": {"id": "chat_conversation"}, "input": "Hi"}),
    "an expansion": ("/v1/chat/1to1/expand", {"message": "a red boat"}),
    "a picture": ("/v1/imagegen", {"prompt": "a red boat"}),
    "a picture, in events": ("/v1/imagegen", {"prompt": "a red boat", "stream": True, "partial_images": 1}),
    "token ids": ("/v1/completions", {"model": "sound", "prompt": [1, 2, 3]}),
    "tokens": ("/v1/prompts/chat_conversation/preview", {"history": HI}),
}
ENDLESS = ("a body without an end", "gzip that unfolds without an end")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with recording_upstream() as made:
        yield made


@pytest.fixture
async def asked(studio: Studio, server: Server, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """A studio whose workers, of every kind, are all this server."""
    monkeypatch.setattr(transport, "MOST_BYTES", 1 << 20)
    url = str(server.url).rstrip("/")
    names = {"id": "sound", "aliases": ["qwen_instruct", "qwen_base"]}
    await studio.register("chat", url, models=[{**names, "abilities": [*CHAT_ABILITIES, "moderations"]}])
    await studio.register("image", url, kind="image", models=[{"id": "draws", "abilities": ["images", "image_edits"]}])
    await studio.register("selfie", url, kind="selfie", models=[{"id": "faces", "abilities": ["faces"]}])
    return studio


@pytest.mark.parametrize("way", ASKED)
async def test_no_answer_makes_a_500(way: str, asked: Studio, server: Server) -> None:
    path, body = ASKED[way]
    for fault, script in FAULTS.items():
        if way == "relayed" and fault in ENDLESS:
            continue  # an answer that is passed on as it comes ends when its caller leaves
        server.script = script
        before = len(server.received)
        try:
            told = await soon(asked.post(path, body))
        except (httpx2.DecodingError, httpx2.RemoteProtocolError):
            assert way == "relayed", fault  # what is broken passes on as it came, and broken
            continue
        assert b"internal_error" not in told.content, (fault, told.content[:500])
        assert len(server.received) > before, (fault, told.content[:500])
        if way != "relayed":  # there a worker's own 500 is passed on
            assert told.status_code != 500, (fault, told.content[:500])
            assert told.status_code < 400 or told.json()["error"]["code"], fault
    assert (await asked.get("/readyz")).json()["database"]


async def test_no_event_makes_a_500(asked: Studio, server: Server) -> None:
    path, body = ASKED["a picture, in events"]
    for fault, event in EVENTS.items():
        server.script = saying(answer(event, b"text/event-stream"))
        told = await soon(asked.post(path, body))
        assert b'"upstream_error"' in told.content, (fault, told.text[:500])


async def test_no_answer_of_a_selfie_worker_makes_a_500(asked: Studio, server: Server) -> None:
    headers = {"authorization": f"Bearer {asked.key}"}
    for fault, script in FAULTS.items():
        server.script = script
        form: Any = {"consent": "true", "description": "a friendly avatar"}
        sent = asked.http.post(
            "/v1/profile/create", data=form, files={"image": ("me.jpg", b"\xff\xd8\xff")}, headers=headers
        )
        told = await soon(sent)
        assert told.status_code in (400, 429, 502, 503), (fault, told.status_code, told.text[:500])
        assert told.json()["error"]["code"] != "internal_error", fault


async def test_no_answer_of_upstash_is_anything_but_a_queue_that_is_away(server: Server) -> None:
    async with over_upstash(str(server.url), "token") as commands:
        for fault, script in FAULTS.items():
            server.script = script
            with pytest.raises(QueueAwayError):
                await soon(commands.run("PING"))
            assert server.received, fault


REPLIES: dict[str, Any] = {
    "nothing": None,
    "a number": 5,
    "a text": "x",
    "a list of numbers": [1, 2],
    "a list of lists": [[1], [2, 3]],
    "entries without fields": ["0-0", [["1-0", 5]]],
    "a map": {"q": 5},
}


@pytest.mark.parametrize("reply", REPLIES)
async def test_no_reply_of_a_queue_ends_who_reads_it(reply: str) -> None:
    class Odd:
        async def run(self, *command: str | int | float) -> Any:
            return REPLIES[reply]

    odd: Commands = Odd()
    sources: list[Source] = [ListSource(odd, "q", "q:dead", 5), StreamSource(odd, "q", "q:dead", 5, "me")]
    for source in sources:
        for call in (lambda source=source: source.take(2), source.reap, source.waiting):
            try:
                found = await call()
            except QueueAwayError:
                continue
            assert isinstance(found, int | list)


@pytest.mark.parametrize(
    "reply", [b"*-5\r\n", b"$abc\r\n", b"*1\r\n*1\r\n$1\r\nx\r\n", b"HTTP/1.1 400 No\r\n\r\n", b"$1\r\n\xff\r\n"]
)
async def test_who_is_no_redis_is_a_queue_that_is_away(reply: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, over_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0") as commands:
        source = StreamSource(commands, "q", "q:dead", 5, "me")
        for call in (source.open, lambda: source.take(2), source.reap, source.waiting):
            try:
                await soon(call())
            except QueueAwayError:
                continue


@pytest.mark.parametrize("host", ["a" * 70, "a..b", ".a", "169.254.169.254", "[fe80::1]", "[::ffff:a9fe:a9fe]"])
async def test_a_host_that_no_server_has_is_refused_where_it_is_named(host: str, studio: Studio) -> None:
    url = f"http://{host}:1"
    for refused in (await studio.register("w", url), await studio.post("/v1/workers", {"name": "s", "url": url})):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "url")
