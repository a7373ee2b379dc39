"""`python -m llm` as a person starts it: what it says, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from core.device.line import Line
from tests.fakes.chat_worker import engine_processes
from tests.fakes.wait import answers, eventually

pytestmark = pytest.mark.slow

ENTRY = """
[models.small]
source = "{data_dir}"
role = "instruct"
abilities = ["chat"]
max_model_len = 100
licence = "MIT"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "models.toml").write_text(ENTRY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        **os.environ,
        "DATA_DIR": str(tmp_path),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "LLM_CATALOGUE": str(tmp_path / "models.toml"),
        "LLM_MODELS": "small",
        "LLM_ENGINE_MODULE": "tests.fakes.fake_engine",
        "VLLM_PYTHON": sys.executable,
        "ORCHESTRATOR_URL": "",
        "WAN_WORKER_API_KEY": "",
    }


def ended(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "llm", *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def started(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "llm"], env=environment, stderr=subprocess.DEVNULL)


def test_the_catalogue_can_be_read(environment: dict[str, str], tmp_path: Path) -> None:
    done = ended(environment, "models")
    assert (done.returncode, done.stdout.split()) == (0, ["small", str(tmp_path.resolve())])


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "an unknown model": ({"LLM_MODELS": "nope"}, "settings: LLM_MODELS: not in the catalogue: nope; it has small"),
    "no catalogue": ({"LLM_CATALOGUE": "none.toml"}, "settings: LLM_CATALOGUE: none.toml: No such file or directory"),
    "an open door": ({"HOST": "0.0.0.0"}, "settings: HOST is not loopback, so WAN_WORKER_API_KEY must be set"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings_are_one_sentence(environment: dict[str, str], given: dict[str, str], said: str) -> None:
    done = ended({**environment, **given})
    assert (done.returncode, done.stderr.strip(), done.stdout) == (1, said, "")


def test_a_busy_port_is_one_sentence(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environment["PORT"])))
        taken.listen()
        done = ended(environment)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Choose another with PORT and HOST.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
async def test_a_stop_leaves_no_process(environment: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with started(environment) as process:
        try:
            url = f"http://127.0.0.1:{environment['PORT']}/readyz"

            async def ready() -> bool:
                async with httpx2.AsyncClient(trust_env=False) as client:
                    try:
                        return (await client.get(url)).status_code == 200
                    except httpx2.HTTPError:
                        return False

            await answers(ready)
            engine = engine_processes(tmp_path, process.pid)["small"].process
            family = psutil.Process(process.pid).children(recursive=True)
            assert engine in family
            process.send_signal(number)
            await eventually(lambda: process.poll() is not None, "its end")
            await eventually(lambda: not any(map(alive, family)), "the end of its engines")
        finally:
            process.kill()


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_kill_9_ends_its_lease_of_the_device_with_its_engine(environment: dict[str, str], tmp_path: Path) -> None:
    process = started(environment | {"DEVICE_LEASE": str(tmp_path / "device")})
    try:
        url = f"http://127.0.0.1:{environment['PORT']}/memory/load"
        async with httpx2.AsyncClient(trust_env=False, timeout=120) as client:

            async def loaded() -> bool:
                try:
                    return (await client.post(url, json={"which": "all"})).status_code == 200
                except httpx2.TransportError:
                    return False  # it does not listen yet

            await answers(loaded, "a loaded model")
        (engine,) = engine_processes(tmp_path, process.pid).values()
        line = Line(tmp_path / "device", "another")
        assert line.join().granted is None
    finally:
        process.kill()
        process.wait()
    await eventually(lambda: line.look().granted, "the grant")
    assert not alive(engine.process), "granted when the engine is gone, not before"
