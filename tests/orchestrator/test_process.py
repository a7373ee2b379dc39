"""`python -m orchestrator` as a person starts it: settings shown without their secrets, complaints of one sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "orchestrator", *arguments)
    given = {**os.environ, "DATA_DIR": str(folder), "HOST": "127.0.0.1", **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)


def test_settings_are_shown_and_secrets_are_not(tmp_path: Path) -> None:
    secrets = {
        "DATABASE_URL": "postgresql://user:hunter2@db/x",
        "WAN_WORKER_API_KEY": "hunter3",
        "LLM_API_KEY": "hunter4",
    }
    done = run(tmp_path, "settings", **secrets, PORT="8123", INTERFACE_SHORTS_WORKER_URLS="http://a:1, http://b:2")
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (done.returncode, shown["PORT"], shown["INTERFACE_SHORTS_WORKER_URLS"]) == (
        0,
        "8123",
        "http://a:1,http://b:2",
    )
    assert {shown[name] for name in secrets} == {"********"}
    assert "hunter" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was started or made"


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, PORT="http", LEASE_SECONDS="-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("settings: ")
    assert "PORT: " in done.stderr
    assert "LEASE_SECONDS: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_busy_port_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, PORT=str(port))
    wanted = f"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another with PORT and HOST.\n"
    assert (done.returncode, done.stderr) == (1, wanted)
    assert list(tmp_path.iterdir()) == []
