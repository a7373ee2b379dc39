"""Each background task of the orchestrator, ended in turn: none is missed, and the service says that it failed."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import httpx2
import psycopg
import pytest

from core.http.serving import FAILED
from core.watchers import end
from tests.fakes.studio import Studio
from tests.fakes.wait import answers, soon

WATCHERS = (
    *("relay's timeouts", "epoch", "leases of workers", "probes", "runs", "old runs", "old contents", "quotas"),
    *("places at once", "old pictures", "old conversations"),
    *("events of jobs", "news of jobs", "jobs of the dead", "queues", "webhooks", "old jobs"),
)


async def test_no_task_is_missing_here(durable_studio: Studio) -> None:
    assert set(durable_studio.watchers.tasks) == set(WATCHERS)


@pytest.mark.parametrize("name", WATCHERS)
async def test_one_that_ends_fails_the_service(durable_studio: Studio, name: str) -> None:
    assert (await durable_studio.http.get("/healthz")).json() == {"status": "ok"}
    task = durable_studio.watchers.tasks[name]
    await end([task], again=0.1)  # wait_for loses a cancellation that comes as its answer does
    answer = await durable_studio.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "failed", "task": name})
    assert (await durable_studio.http.get("/readyz")).status_code == 503


@pytest.mark.slow
async def test_a_process_whose_task_fails_ends_with_a_status_that_says_so(
    durable_dsn: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    """A column is gone: whoever reads it now and then meets an error that is no outage."""
    log, url = tmp_path / "log", f"http://127.0.0.1:{unused_tcp_port}"
    given = {"DATA_DIR": str(tmp_path), "HOST": "127.0.0.1", "PORT": str(unused_tcp_port), "DATABASE_URL": durable_dsn}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator"), env={**os.environ, **given}, stdout=out, stderr=out
        )
    try:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:

            async def lives() -> bool:
                with contextlib.suppress(httpx2.TransportError):
                    return (await http.get(f"{url}/healthz")).status_code == 200
                return False

            await answers(lives, "the orchestrator")
        async with await psycopg.AsyncConnection.connect(durable_dsn, autocommit=True) as connection:
            await connection.execute("alter table jobs rename column webhook_at to webhook_when")
        assert await soon(process.wait()) == FAILED, log.read_text()
        assert "a background task ended: so does the process" in log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
