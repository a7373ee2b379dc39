"""Programs that others wrote for the same place, each in an environment of its own beside the bench."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.harness import ROOT, BenchError

ENVIRONMENTS = ROOT / "bench" / ".envs"


@dataclass(frozen=True)
class Peer:
    """A program from PyPI: the one requirement it is installed by, and the command it comes with."""

    title: str
    requirement: str
    command: str

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.command

    @property
    def program(self) -> Path:
        return self.environment / "bin" / self.command

    @property
    def version(self) -> str:
        return self.requirement.partition("==")[2]


VLLM_ROUTER = Peer("vllm-router (Rust)", "vllm-router==0.1.17", "vllm-router")
# The last release line before 1.107.0, which was withdrawn as tampered with.
LITELLM = Peer("LiteLLM proxy", "litellm[proxy]==1.106.2", "litellm")


def install(peer: Peer) -> None:
    """What is missing. Raises BenchError with the reason why this machine cannot have it."""
    stamp = peer.environment / "installed"
    if stamp.exists() and stamp.read_text() == peer.requirement:
        return
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(peer.environment / "bin" / "python")
    local = os.environ.get("PIP_FIND_LINKS")  # pip's local wheels are uv's too
    env = {**os.environ, **({"UV_FIND_LINKS": ",".join(local.split())} if local else {})}
    print(f"Installing {peer.requirement} …", flush=True)
    for command in (
        (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(peer.environment)),
        (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, peer.requirement),
    ):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(done.stderr.strip()[-400:] or f"{command[1]} ended with {done.returncode}")
    stamp.write_text(peer.requirement)
