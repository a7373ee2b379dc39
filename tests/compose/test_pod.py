"""compose/pod.sh: every way to call it, and a service that ends is started again, each time after a longer wait."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "compose" / "pod.sh"
WORKER = {"WAN_WORKER_API_KEY": "key", "ORCHESTRATOR_URL": "http://orchestrator:8000"}
MODULES = {"orchestrator": "8000", "chat": "7861", "image": "8001", "selfie": "8003"}


def pod(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {**kept, "DATA_DIR": str(folder), "POD_KEEP_VERSION": "1", **environment}
    return subprocess.run((SCRIPT, *arguments), env=given, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", [["bash", "-n"], [str(Path(sys.executable).with_name("shellcheck"))]])
def test_the_script_is_well_formed(command: list[str]) -> None:
    done = subprocess.run([*command, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("service", MODULES)
def test_a_dry_run_says_what_would_be_done_and_does_nothing(service: str, tmp_path: Path) -> None:
    done = pod(tmp_path / "data", "--dry-run", service, **WORKER)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-1].endswith(f"{service} keep")
    installs = [line for line in said if "compose/install.py" in line]
    assert installs[0].split()[3:] == ([service] if service != "chat" else ["chat", "vllm"])
    assert any("vllm" in line for line in said) == (service == "chat")
    assert not (tmp_path / "data").exists()


def test_a_worker_without_its_settings_is_told_which(tmp_path: Path) -> None:
    for name in WORKER:
        done = pod(tmp_path, "--dry-run", "image", **{other: WORKER[other] for other in WORKER if other != name})
        assert done.returncode == 1
        assert name in done.stderr
    assert pod(tmp_path, "--dry-run", "orchestrator").returncode == 0


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), ([], 2), (["video"], 2), (["chat", "dance"], 2)])
def test_the_usage_is_shown(arguments: list[str], status: int, tmp_path: Path) -> None:
    done = pod(tmp_path, *arguments, **WORKER)
    assert done.returncode == status
    assert "orchestrator|chat|image|selfie" in (done.stdout if status == 0 else done.stderr)


def test_status_of_what_does_not_run(tmp_path: Path) -> None:
    done = pod(tmp_path, "selfie", "status", PORT="1", POD_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "not ready" in done.stdout
    assert pod(tmp_path, "selfie", "stop").returncode == 0


def until(wanted: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline


def left_of(group: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_service_that_ends_is_started_again_after_longer_waits_and_stopped_with_its_keeper(tmp_path: Path) -> None:
    """With a program in place of Python that ends three times, then stays."""
    log, ends = tmp_path / "logs" / "image.log", tmp_path / "ends"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >>{ends}\n[ "$(wc -l <{ends})" -gt 3 ] && exec sleep 600\nexit 7\n')
    program.chmod(0o755)
    waits = {"POD_PYTHON": str(program), "POD_FIRST_WAIT": "1", "POD_LONGEST_WAIT": "1"}
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), **waits}
    keeper = subprocess.Popen((SCRIPT, "image", "keep"), env=environment, start_new_session=True)
    try:
        until(lambda: ends.exists() and len(ends.read_text().splitlines()) == 4)
        assert set(ends.read_text().splitlines()) == {"-m image"}
        said = re.compile(r"image ended with status 7; starting again in 1 s")
        until(lambda: len(said.findall(log.read_text())) == 3)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 0
        until(lambda: not left_of(keeper.pid))
    finally:
        if keeper.poll() is None:
            os.killpg(keeper.pid, signal.SIGKILL)


@pytest.mark.slow
def written(log: Path) -> str:
    """What stands there; nothing in the moment in which it is rotated."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def test_its_log_is_rotated_while_the_service_runs(tmp_path: Path) -> None:
    logs, program = tmp_path / "logs", tmp_path / "python"
    program.write_text("#!/bin/sh\nfor i in $(seq 1000); do echo line $i; done\necho last\nexec sleep 600\n")
    program.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "POD_PYTHON": str(program)}
    keeper = subprocess.Popen(
        (SCRIPT, "image", "keep"), env={**environment, "POD_LOG_BYTES": "2000"}, start_new_session=True
    )
    try:
        until(lambda: "last" in written(logs / "image.log"))
        assert {file.name for file in logs.iterdir()} == {"image.log", "image.log.1"}
        assert all(file.stat().st_size <= 2020 for file in logs.iterdir())
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 0
        until(lambda: not left_of(keeper.pid))
    finally:
        if keeper.poll() is None:
            os.killpg(keeper.pid, signal.SIGKILL)
