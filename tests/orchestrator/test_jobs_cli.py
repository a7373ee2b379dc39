"""`python -m orchestrator jobs`, against an orchestrator that runs."""

import argparse
import asyncio
import json
from datetime import UTC, datetime

import pytest

from orchestrator.jobs import cli as jobs_cli
from orchestrator.settings import OrchestratorSettings
from tests.fakes.studio import Studio
from tests.fakes.wait import eventually, soon
from tests.orchestrator.test_jobs import ASKED, PATH, STEPS


async def told(studio: Studio, *words: str) -> int:
    """The exit status of `jobs WORDS`."""
    parser = argparse.ArgumentParser()
    jobs_cli.add_commands(parser.add_subparsers())
    given = parser.parse_args(["jobs", "--url", studio.url, "--key", studio.key, *words])
    return await soon(asyncio.to_thread(given.run, given, OrchestratorSettings.load()))


async def test_a_job_is_followed_to_its_end(durable_studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    await durable_studio.chat_worker()
    image = await durable_studio.image_worker()
    image.held.clear()
    job_id = (await durable_studio.post(PATH, {**ASKED, "background": True})).json()["id"]
    watching = asyncio.ensure_future(told(durable_studio, "watch", job_id))
    await eventually(lambda: image.running)
    image.held.set()
    assert await watching == 0
    shown = [line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines() if " s  " in line]
    assert shown == [*(f"{mark} {step}" for step in STEPS for mark in "…✓"), "✓ done"]
    assert await told(durable_studio, "watch", job_id) == 0, "and again, when it has ended"
    capsys.readouterr()
    assert await told(durable_studio, "watch", "--json", job_id) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "pipeline.completed"
    completed = ("--state", "completed", "--pipeline", "chat1to1")
    for filters, there in ((completed, True), (("--pipeline", "scenes"), False)):
        assert await told(durable_studio, "list", *filters) == 0
        assert (job_id in capsys.readouterr().out) == there
    assert await told(durable_studio, "list") == 0
    made = (await durable_studio.get(f"/v1/jobs/{job_id}")).json()["created_at"]
    assert datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d %H:%M:%SZ") in capsys.readouterr().out
    assert await told(durable_studio, "watch", "job_none") == 1
    assert "no such job" in capsys.readouterr().err


async def test_a_cancelled_job_is_no_success(durable_studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    await durable_studio.chat_worker()
    image = await durable_studio.image_worker()
    image.held.clear()
    job_id = (await durable_studio.post(PATH, {**ASKED, "background": True})).json()["id"]
    watching = asyncio.ensure_future(told(durable_studio, "watch", job_id))
    await eventually(lambda: image.running)
    assert await told(durable_studio, "cancel", "--json", job_id) == 0
    assert await watching == 1
    assert "✗ The job was cancelled." in capsys.readouterr().out
