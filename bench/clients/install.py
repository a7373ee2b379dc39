"""Clients that the studio's own environment has no place for, each installed in a folder of its own: `make clients`.

LiteLLM, whose pins do not fit beside ours, and OpenAI's SDK for Node. Needs the network once.
"""

import shutil
import subprocess
import sys

from bench.relay.peers import ENVIRONMENTS, LITELLM, install

NODE = ENVIRONMENTS / "node"
NODE_SDK = "openai@7.57.0"


def node() -> str | None:
    """What is in the way, or None where the SDK is there."""
    if (NODE / "node_modules" / "openai").is_dir():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm"
    NODE.mkdir(parents=True, exist_ok=True)
    command = (npm, "install", "--prefix", str(NODE), "--no-audit", "--no-fund", NODE_SDK)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    problems = {"LiteLLM": install(LITELLM), "OpenAI's SDK for Node": node()}
    for name, problem in problems.items():
        print(f"{name}: {problem or 'installed'}")
    return 1 if any(problems.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
