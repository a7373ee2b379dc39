"""The doctor: what each figure is worth, what a person is told to do, and the exit status."""

import asyncio
import json
import socket
from argparse import Namespace
from pathlib import Path

import psycopg
import pytest

from core.db.migrate import bundled
from orchestrator.operate import checks, doctor
from orchestrator.operate.checks import GIB, Finding
from orchestrator.settings import OrchestratorSettings
from tests.fakes.studio import studio_over


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (checks.python((3, 10, 9)), "fail"),
        (checks.python((3, 11, 0)), "ok"),
        (checks.disk(GIB), "fail"),
        (checks.disk(5 * GIB), "warn"),
        (checks.disk(50 * GIB), "ok"),
        (checks.memory(3 * GIB), "warn"),
        (checks.memory(16 * GIB), "ok"),
        (checks.open_files(1024), "warn"),
        (checks.open_files(65536), "ok"),
        (checks.open_files(-1), "ok"),
        (checks.port("PORT", "none"), "fail"),
        (checks.port("PORT", "70000"), "fail"),
        (checks.engine(Path("/nowhere/python"), None), "warn"),
        (checks.engine(Path("/nowhere/python"), "http://127.0.0.1:11434/v1"), "ok"),
        (checks.models(Path("/nowhere"), None), "ok"),
        (checks.models(Path("/nowhere"), "/nowhere"), "fail"),
        (doctor.judge_database(14, 1.0, {}), "fail"),
        (doctor.judge_database(18, 1.0, {}), "ok"),
        (doctor.judge_database(18, 1.0, {bundled()[0].version: "other"}), "fail"),
        (doctor.judge_database(18, 1.0, {"9999": "newer"}), "warn"),
        (doctor.judge_readiness({"ready": True}), "ok"),
        (doctor.judge_readiness({"ready": False, "database": False}), "fail"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.check,
)
def test_a_figure_is_judged_and_what_is_wrong_has_a_cure(finding: Finding, state: str) -> None:
    assert finding.state == state
    assert bool(finding.todo) == (state != "ok")


def test_gpus_are_judged_by_their_driver() -> None:
    told = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 80994\nNVIDIA A40, 550.54.14, 46068, 45000\n"
    told += "Tesla T4, 470.82.01, 15109, 15000\n"
    found = list(checks.judge_gpus(told))
    assert [finding.state for finding in found] == ["ok", "warn", "fail"]
    assert "80994 of 81559 MiB free" in found[0].says
    assert "580" in found[1].todo
    assert "525" in found[2].todo


def test_a_port_that_another_program_has_is_a_failure() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
        found = checks.port("CHAT_PORT", port)
    assert (found.state, found.todo) == ("fail", "Stop what uses it, or choose another: CHAT_PORT=…")
    assert checks.port("CHAT_PORT", port).state == "ok"


def test_other_versions_than_pinned_are_told(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("pytest==0.0.1\nnot-installed-anywhere==1.0\n")
    found = checks.packages(lock)
    assert found.state == "warn"
    assert "pytest" in found.says
    assert "not-installed" not in found.says


@pytest.mark.parametrize(
    ("breaker", "ready", "state"), [("closed", True, "ok"), ("closed", False, "warn"), ("open", True, "warn")]
)
def test_workers_are_judged(breaker: str, ready: bool, state: str) -> None:
    worker = {"id": "a", "kind": "chat", "url": "http://a", "outstanding": 1, "capacity": 4}
    [found] = doctor.judge_workers([{**worker, "breaker": breaker, "ready": ready}])
    assert (found.check, found.state) == ("worker a", state)
    assert [finding.state for finding in doctor.judge_workers([])] == ["warn"]


def test_wrong_settings_are_a_finding_and_the_exit_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "http")
    assert doctor.run(Namespace(json=True)) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [finding["check"] for finding in told["findings"]] == ["settings"]
    assert doctor.run(Namespace(json=False)) == 1
    assert "FAIL  settings: PORT" in capsys.readouterr().out


async def test_a_database_is_asked(migrated_dsn: str, postgres_dsn: str) -> None:
    assert "migrations are applied" in _asked(postgres_dsn).says
    assert _asked(migrated_dsn).state == "ok"
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        await connection.execute("update schema_migrations set sha256 = 'changed' where version = '0002'")
    assert "0002" in _asked(migrated_dsn).says
    gone = _asked("postgresql://nobody@127.0.0.1:1/none")
    assert gone.state == "fail"
    assert "does not answer" in gone.says


def _asked(dsn: str) -> Finding:
    return doctor.database(OrchestratorSettings.load(database_url=dsn))


async def test_a_studio_that_runs_is_asked(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.chat_worker("chat-7")
        settings = OrchestratorSettings.load(port=studio.port, data_dir=tmp_path)
        found = await asyncio.to_thread(lambda: list(doctor.studio(settings)))
        port = await asyncio.to_thread(checks.port, "PORT", str(studio.port))
    assert [(each.check, each.state) for each in found] == [("orchestrator", "ok"), ("worker chat-7", "ok")]
    assert "service of the studio answers" in port.says
    [away] = doctor.studio(settings)
    assert "None runs" in away.says
