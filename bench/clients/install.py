"""Clients that the studio's own environment has no place for, each installed in a folder of its own: `make clients`.

LiteLLM, whose pins do not fit beside ours, and OpenAI's SDK for Node. Needs the network once.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable

from bench.harness import BenchError
from bench.relay.peers import ENVIRONMENTS, LITELLM, install

NODE = ENVIRONMENTS / "node"
NODE_SDK = "openai@7.57.0"


def install_node_sdk() -> None:
    """Raises BenchError with what is in the way."""
    if (NODE / "node_modules" / "openai").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BenchError("there is no npm")
    NODE.mkdir(parents=True, exist_ok=True)
    command = (npm, "install", "--prefix", str(NODE), "--no-audit", "--no-fund", NODE_SDK)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr.strip())


def main() -> int:
    failed = 0
    clients: dict[str, Callable[[], None]] = {
        "LiteLLM": lambda: install(LITELLM),
        "OpenAI's SDK for Node": install_node_sdk,
    }
    for name, work in clients.items():
        try:
            work()
            print(f"{name}: installed")
        except BenchError as exc:
            print(f"{name}: {exc}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
