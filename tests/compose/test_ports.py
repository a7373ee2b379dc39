"""The ports of `make up`: chosen from the environment, checked before anything starts, each complaint one sentence."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose import ports

ROOT = Path(ports.__file__).parent.parent


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(**environment: str) -> "subprocess.CompletedProcess[str]":
    """As the Makefile runs it: the script, with nothing installed."""
    bare = {name: value for name, value in os.environ.items() if name not in (*ports.DEFAULTS, "HOST")}
    command = (sys.executable, "-I", "-S", "compose/ports.py")
    return subprocess.run(
        command, cwd=ROOT, env={**bare, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "not a number": ({"PORT": "http"}, "PORT=http is not a port."),
    "a digit that is none": ({"PORT": "8²"}, "PORT=8² is not a port."),
    "negative": ({"CHAT_PORT": "-1"}, "CHAT_PORT=-1 is not a port."),
    "nought": ({"IMAGE_PORT": "0"}, "IMAGE_PORT=0 is not a port."),
    "too large": ({"SELFIE_PORT": "65536"}, "SELFIE_PORT=65536 is not a port."),
    "two alike": (
        {"PORT": "7861"},
        "Two services would use one port: PORT=7861, CHAT_PORT=7861, IMAGE_PORT=8001, SELFIE_PORT=8003",
    ),
}


@pytest.mark.parametrize(("environment", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_port_is_one_sentence(environment: dict[str, str], said: str) -> None:
    done = run(**environment)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (1, said, "")


@pytest.mark.parametrize("name", ports.DEFAULTS)
def test_a_port_that_is_taken_is_named(name: str, taken: int) -> None:
    given = {other: str(free()) for other in ports.DEFAULTS} | {name: str(taken)}
    done = run(**given)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Port {taken} cannot be used")
    assert f"choose another: {name}=" in done.stderr


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "::1"])
def test_free_ports_are_no_complaint(host: str) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("there is no IPv6 here")
    done = run(HOST=host, **{name: str(free()) for name in ports.DEFAULTS})
    assert (done.returncode, done.stderr) == (0, "")


def test_an_address_of_another_machine_is_a_sentence() -> None:
    done = run(HOST="192.0.2.1", **{name: str(free()) for name in ports.DEFAULTS})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
