"""Jobs from a queue, against a real redis-server and a real Postgres: lists, streams, and Upstash's REST form."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
import pytest
import trustme
from psycopg_pool import PoolTimeout

from core.db.pool import Pool, open_pool
from core.errors import Unavailable, Unprocessable
from orchestrator.legacy.intake import Intake, source_over
from orchestrator.legacy.queue_commands import Commands, QueueAwayError, over_redis, over_upstash
from orchestrator.legacy.queue_job import Job, read
from orchestrator.legacy.queue_ledger import Ledger
from orchestrator.legacy.queue_runner import JOBS, Rules
from orchestrator.operate.seal import Seal
from orchestrator.runs.caller import Caller
from tests.fakes.redis_server import TOKEN, client, redis_server, upstash
from tests.fakes.studio import studio_over
from tests.fakes.tls import tls_before
from tests.fakes.wait import answers, eventually, soon

KINDS = ("list", "stream", "rest list", "rest stream")


@pytest.fixture(scope="module")
async def redis_url() -> AsyncIterator[str]:
    async with redis_server() as url:
        yield url


@pytest.fixture(scope="module")
async def rest_url(redis_url: str) -> AsyncIterator[str]:
    async with upstash(redis_url) as url:
        yield url


class Worker:
    """Does what a test wants with each job."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.raises: dict[str, list[Exception]] = {}
        self.gate: asyncio.Event | None = None
        self.most = 0
        self.running = 0

    async def run(self, job: Job, caller: Caller) -> dict[str, Any]:
        self.ran.append(job.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.raises.get(job.id):
                raise self.raises[job.id].pop(0)
            return {"said": job.payload.get("say")}
        finally:
            self.running -= 1


class Queue:
    """One queue of a name of its own, filled and read by a plain client."""

    def __init__(self, redis: Any, connect: Callable[[], AbstractAsyncContextManager[Commands]], kind: str) -> None:
        self.name = f"q{random.getrandbits(40):x}"
        self.redis, self.connect, self.stream = redis, connect, kind.endswith("stream")
        self.rest = kind.startswith("rest")
        self.worker = Worker()

    async def put(self, text: str | bytes) -> None:
        if self.stream:
            await self.redis.execute_command("XADD", self.name, "*", "job", text)
        else:
            await self.redis.execute_command("RPUSH", self.name, text)

    async def job(self, number: str, **payload: Any) -> None:
        await self.put(json.dumps({"id": number, "job_type": "chat_enhance", "payload": payload, "extra": 1}))

    def intake(self, pool: Pool, **given: Any) -> Intake:
        async def nobody(job: str) -> Any:
            return SimpleNamespace(key=SimpleNamespace(tenant="default"))

        own = {"poll": 0.02, "visibility": 0.5, "kind": "stream" if self.stream else "list", **given}
        rules = Rules(name=self.name, **own)
        ledger = Ledger(pool, Seal(bytes(32)), rules.name, rules.visibility)
        return Intake(rules, ledger, self.connect, handler=self.worker, caller=nobody)

    async def result(self, number: str) -> Any:
        text = await self.redis.execute_command("GET", f"{self.name}:result:{number}")
        return json.loads(text) if text else None

    async def results(self, *numbers: str) -> list[Any]:
        async def all_there() -> bool:
            return all([await self.result(number) for number in numbers])

        await answers(all_there, "the results")
        return [await self.result(number) for number in numbers]

    async def left(self) -> int:
        """Jobs that wait or are held."""
        if self.stream:
            return int(await self.redis.execute_command("XLEN", self.name))
        taken = await self.redis.execute_command("LLEN", f"{self.name}:taken")
        return int(await self.redis.execute_command("LLEN", self.name)) + int(taken)

    async def dead(self) -> list[str]:
        found = await self.redis.execute_command("LRANGE", f"{self.name}:dead", 0, -1, NEVER_DECODE=True)
        return [text.decode(errors="replace") for text in found]


@pytest.fixture(params=KINDS)
async def queue(request: pytest.FixtureRequest, redis_url: str, rest_url: str) -> AsyncIterator[Queue]:
    rest = request.param.startswith("rest")
    connect = (lambda: over_upstash(rest_url, TOKEN)) if rest else (lambda: over_redis(redis_url))
    async with client(redis_url) as redis:
        yield Queue(redis, connect, request.param)


@pytest.fixture
async def pool(migrated_dsn: str) -> AsyncIterator[Pool]:
    async with open_pool(migrated_dsn, size=8) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[None]:
    task = asyncio.ensure_future(intake.run())
    try:
        yield
    finally:
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled()


async def test_jobs_run_and_their_results_are_written(queue: Queue, pool: Pool) -> None:
    async with running(queue.intake(pool)):
        for number in range(20):
            await queue.job(f"j{number}", say=number)
        found = await queue.results(*(f"j{number}" for number in range(20)))
        assert found == [{"success": True, "id": f"j{number}", "result": {"said": number}} for number in range(20)]
        assert sorted(queue.worker.ran) == sorted(f"j{number}" for number in range(20))
        assert queue.worker.most <= 8

        async def empty() -> bool:
            return await queue.left() == 0

        await answers(empty, "an empty queue")


async def test_a_job_that_comes_twice_runs_once(queue: Queue, pool: Pool) -> None:
    queue.worker.gate = asyncio.Event()
    async with running(queue.intake(pool)):
        for _ in range(3):
            await queue.job("same", say="once")
        await eventually(lambda: queue.worker.ran, "a running job")
        queue.worker.gate.set()
        await queue.results("same")
        await queue.job("same", say="once")

        async def empty() -> bool:
            return await queue.left() == 0

        await answers(empty, "an empty queue")
        assert queue.worker.ran == ["same"]
        assert (await queue.result("same"))["result"] == {"said": "once"}


async def test_a_late_heartbeat_makes_no_work_twice(queue: Queue, pool: Pool) -> None:
    """Held for a millisecond, a job is given out again and again while it runs."""
    queue.worker.gate = asyncio.Event()
    busy = JOBS.labels("busy")
    before = busy._value.get()
    async with running(queue.intake(pool, visibility=0.001)):
        await queue.job("same", say="once")
        await eventually(lambda: queue.worker.ran, "a running job")
        await eventually(lambda: busy._value.get() > before + 5, "deliveries while it runs")
        queue.worker.gate.set()
        await queue.results("same")
    assert queue.worker.ran == ["same"]


class FullPool:
    """A pool of which no connection comes free for so many times, once it `is_full`."""

    def __init__(self, pool: Pool, times: int) -> None:
        self._pool, self._times = pool, times
        self.is_full = False

    def connection(self, **given: Any) -> AbstractAsyncContextManager[Any]:
        if self.is_full and self._times:
            self._times -= 1
            raise PoolTimeout("no connection came free")
        return self._pool.connection(**given)


async def test_work_that_is_done_is_not_done_again_where_no_connection_comes_free(queue: Queue, pool: Pool) -> None:
    full = FullPool(pool, 7)
    queue.worker.gate = asyncio.Event()
    async with running(queue.intake(cast(Pool, full))):
        await queue.job("same", say="once")
        await eventually(lambda: queue.worker.ran, "a running job")
        full.is_full = True
        queue.worker.gate.set()
        await queue.results("same")
    assert queue.worker.ran == ["same"]


async def test_what_fails_is_tried_again_and_what_is_poison_is_buried(queue: Queue, pool: Pool) -> None:
    away: list[Exception] = [Unavailable("No worker.", code="no_worker") for _ in range(5)]
    queue.worker.raises = {"soon": away[:2], "never": [*away], "wrong": [Unprocessable("No.", code="invalid")]}
    async with running(queue.intake(pool)):
        for number in ("soon", "never", "wrong"):
            await queue.job(number, say=number)
        for text in ("{", b"{" if queue.rest else b"\xff\x00", '{"id": "\\u0000", "job_type": "t"}'):
            await queue.put(text)
        own = queue.stream and not queue.rest  # a stream's entry may be the job's own fields
        if own:
            await queue.redis.execute_command("XADD", queue.name, "*", "id", b"\xff", "job_type", "t")
        found = await queue.results("soon", "never", "wrong")
        assert [told["success"] for told in found] == [True, False, False]
        assert [told["error"]["code"] for told in found[1:]] == ["no_worker", "invalid"]
        counts = {number: queue.worker.ran.count(number) for number in ("soon", "never", "wrong")}
        assert counts == {"soon": 3, "never": 3, "wrong": 1}

        async def buried() -> bool:
            return await queue.redis.llen(f"{queue.name}:dead") == 4 + own and await queue.left() == 0

        await answers(buried, "the dead letters")
        wanted = {"{"} if queue.rest else {"{", "\ufffd\0"}  # over REST there is nothing but text
        assert wanted < set(await queue.dead()), "as they came"


@pytest.mark.parametrize(("end", "push"), [("left", "RPUSH"), ("right", "LPUSH")])
async def test_a_list_is_taken_from_the_end_that_is_not_filled(end: Any, push: str, redis_url: str, pool: Pool) -> None:
    """The first that came is the first to go, also when it comes again."""
    async with client(redis_url) as redis:
        queue = Queue(redis, lambda: over_redis(redis_url), "list")
        for number in range(4):
            text = json.dumps({"id": f"j{number}", "job_type": "t", "payload": {}})
            await redis.execute_command(push, queue.name, text)
        queue.worker.raises = {"j0": [Unavailable("No worker.", code="no_worker")]}
        async with running(queue.intake(pool, end=end, concurrency=1)):
            await queue.results(*(f"j{number}" for number in range(4)))
        assert queue.worker.ran == ["j0", "j1", "j2", "j3", "j0"]
        assert await queue.left() == 0


async def test_what_is_held_does_not_wait(queue: Queue, pool: Pool) -> None:
    async with queue.connect() as commands:
        source = source_over(commands, queue.intake(pool).rules, "me")
        await source.open()
        assert await source.waiting() == 0
        for number in range(3):
            await queue.job(f"j{number}")
        assert await source.waiting() == 3
        await source.take(2)
        assert await source.waiting() == 1


async def test_a_stop_lets_running_jobs_end_and_gives_back_the_rest(queue: Queue, pool: Pool) -> None:
    queue.worker.gate = asyncio.Event()
    async with running(queue.intake(pool, drain=0.05)):
        await queue.job("slow", say=1)
        await eventually(lambda: queue.worker.ran, "a running job")
    assert await queue.left() == 1, "it waits for another"
    assert await queue.result("slow") is None
    queue.worker.gate.set()
    async with running(queue.intake(pool)):
        (told,) = await queue.results("slow")
        assert told["success"] is True


async def test_what_a_dead_consumer_held_comes_again(queue: Queue, pool: Pool) -> None:
    """Taken by somebody who is never heard of again; then by us, when its time is over."""
    await queue.job("held", say=1)
    async with queue.connect() as commands:
        intake = queue.intake(pool)
        dead = source_over(commands, intake.rules, "dead")
        await dead.open()
        assert len(await dead.take(5)) == 1
    async with running(queue.intake(pool)):
        (told,) = await queue.results("held")
        assert told["result"] == {"said": 1}


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_over_tls(kind: str, redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """rediss://, with a certificate of the operator's own authority; nothing is said to a server of another."""
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = urlsplit(redis_url).port or 0

    def connect(port: int) -> AbstractAsyncContextManager[Commands]:
        return over_redis(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}")

    async with tls_before(port, ours, "localhost") as encrypted, client(redis_url) as plain:
        queue = Queue(plain, lambda: connect(encrypted), kind)
        async with running(queue.intake(pool)):
            for number in range(5):
                await queue.job(f"{kind}-{number}", say=number)
            found = await queue.results(*(f"{kind}-{number}" for number in range(5)))
            assert [told["result"]["said"] for told in found] == list(range(5))
    for authority, name in ((others, "localhost"), (ours, "elsewhere.test")):
        async with tls_before(port, authority, name) as wrong, connect(wrong) as commands:
            with pytest.raises(QueueAwayError, match="CERTIFICATE_VERIFY_FAILED"):
                await soon(commands.run("PING"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "consumers", "kills"), [("list", 2, 2), ("stream", 1, 1)])
async def test_consumers_killed_at_random_lose_nothing_and_do_nothing_twice(
    kind: str, consumers: int, kills: int, redis_url: str, migrated_dsn: str
) -> None:
    """200 jobs, with SIGKILL; tests/endurance/queue.py does 10,000."""
    from tests.endurance.queue import killed_at_random

    async with asyncio.timeout(200):  # several starts of a Python, on a busy machine
        found = await killed_at_random(migrated_dsn, redis_url, kind=kind, jobs=200, consumers=consumers, kills=kills)
    assert found.effects == {f"j{number}": 1 for number in range(200)}
    assert (found.results, found.left, found.kills) == (200, 0, kills)


def test_a_job_is_read() -> None:
    job = read('{"id": "a", "job_type": "t", "payload": "{\\"prompt\\": \\"x\\"}", "more": 1}')
    assert (job.id, job.job_type, job.payload) == ("a", "t", {"prompt": "x"})


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "x" * (2 << 20)),
        '{"id": 1, "job_type": "t", "payload": {}}',
        '{"id": "a", "payload": {}}',
        '{"id": "", "job_type": "t"}',
        '{"id": "a", "job_type": "t", "payload": 3}',
        '{"id": "a", "job_type": "t", "payload": "x"}',
    ],
)
def test_what_is_no_job(text: str) -> None:
    with pytest.raises(Unprocessable):
        read(text)


async def test_in_the_orchestrator(redis_url: str, migrated_dsn: str, tmp_path: Path) -> None:
    """Each job type goes where the endpoint would: an enhancement, a turn of a conversation."""
    name = f"q{random.getrandbits(40):x}"
    given: dict[str, Any] = {"queue_name": name, "queue_url": redis_url, "queue_poll_seconds": 0.02}
    async with studio_over(migrated_dsn, tmp_path, **given) as studio, client(redis_url) as redis:
        worker = await studio.chat_worker()
        jobs: dict[str, tuple[str, dict[str, Any]]] = {
            "a": ("sdxl_image_fast", {"prompt": "a red boat"}),
            "b": ("chat_conversation", {"message": "hello", "conversation_id": "c"}),
            "c": ("opera", {"prompt": "x"}),
            "d": ("video_fast", {"message": "x"}),
        }
        for number, (job_type, payload) in jobs.items():
            text = json.dumps({"id": number, "job_type": job_type, "payload": payload})
            await redis.execute_command("RPUSH", name, text)

        async def ended() -> bool:
            return all([await redis.execute_command("GET", f"{name}:result:{number}") for number in jobs])

        await answers(ended, "the results")
        found = {n: json.loads(await redis.execute_command("GET", f"{name}:result:{n}")) for n in jobs}
        assert found["a"]["result"]["enhanced_prompt"] == "a red boat"
        assert (found["b"]["result"]["response"], found["b"]["result"]["conversation_id"]) == ("hello", "c")
        assert [found[n]["error"]["code"] for n in ("c", "d")] == ["unknown_job_type", "no_conversation"]
        asked = len(await worker.received())
        async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
            await connection.execute("delete from queue_jobs where id = 'b'")  # as of one that died before its end
        await redis.execute_command("DEL", f"{name}:result:b")
        text = json.dumps({"id": "b", "job_type": jobs["b"][0], "payload": jobs["b"][1]})
        await redis.execute_command("RPUSH", name, text)
        await answers(ended, "the result")
        again = json.loads(await redis.execute_command("GET", f"{name}:result:b"))
        assert len(await worker.received()) == asked, "the turn is there: the model is not asked again"
        assert {**again["result"], "generation_time": 0} == {**found["b"]["result"], "generation_time": 0}
        metrics = (await studio.http.get("/metrics")).text
        assert 'soundstage_queue_jobs_total{outcome="done"}' in metrics
        assert "soundstage_queue_lag 0.0" in metrics


async def test_a_key_that_is_refused_loses_no_job(redis_url: str, migrated_dsn: str, tmp_path: Path) -> None:
    name = f"q{random.getrandbits(40):x}"
    given: dict[str, Any] = {"queue_name": name, "queue_url": redis_url, "queue_poll_seconds": 0.02}
    async with studio_over(migrated_dsn, tmp_path, **given, queue_api_key="sk-nobody"), client(redis_url) as redis:
        text = json.dumps({"id": "a", "job_type": "chat_enhance", "payload": {"prompt": "x"}})
        await redis.execute_command("RPUSH", name, text)

        async def buried() -> bool:
            return bool(await redis.execute_command("LRANGE", f"{name}:dead", 0, -1) == [text])

        await answers(buried, "the dead letter")
        told = json.loads(await redis.execute_command("GET", f"{name}:result:a"))
        assert told["error"]["code"] == "queue_key"


async def test_the_ledger_is_one_row_a_job(queue: Queue, pool: Pool, migrated_dsn: str) -> None:
    async with running(queue.intake(pool)):
        await queue.job("a", say=1)
        await queue.results("a")
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as connection:
        rows = await (await connection.execute("select id, state, tries from queue_jobs")).fetchall()
    assert rows == [("a", "done", 1)]
