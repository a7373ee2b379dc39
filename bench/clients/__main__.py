"""Clients whose pins do not fit beside the studio's, each from an environment of its own: `python -m bench.clients`.

It starts the whole studio with the small model, and writes what the clients said to bench/results/clients.json.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.relay.peers import LITELLM, install
from compose import small_model
from tests.e2e.studio import ROOT, data_directory, running_studio

SCRIPT = Path(__file__).with_name("with_litellm.py")
RESULT = ROOT / "bench" / "results" / "clients.json"
ANSWER = {"text": "The capital of France is Paris.", "tokens": 8}
WANTED: dict[str, dict[str, Any]] = {
    "answer": ANSWER,
    "stream": ANSWER,
    "structured": {"keys": ["age"]},
    "tool": {"name": "save_age"},
    "completion": {"paris": True},
    "unknown model": {"raised": "NotFoundError", "status": 404},
    "unknown key": {"raised": "AuthenticationError", "status": 401},
    "wrong field": {"raised": "BadRequestError", "status": 400},
}


async def asked(base_url: str, key: str) -> dict[str, dict[str, Any]]:
    """What LiteLLM said of each of its checks."""
    command = (str(LITELLM.environment / "bin" / "python"), str(SCRIPT), base_url, key)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    said = [json.loads(line) for line in told.splitlines() if line.startswith(b"{")]
    return {one.pop("check"): one for one in said}


async def main(models: Path) -> int:
    problem = install(LITELLM)
    if problem:
        sys.exit(problem)
    with data_directory(models) as data:
        async with running_studio(data) as studio:
            said = await asked(studio.base_url, studio.key)
    as_wanted = said == WANTED
    text = json.dumps({"client": LITELLM.requirement, "as_wanted": as_wanted, "said": said}, indent=1)
    RESULT.write_text(text + "\n")
    print(text)
    return 0 if as_wanted else 1


if __name__ == "__main__":
    folder = ROOT / "data" / "models"
    small_model.prepare(folder)
    sys.exit(asyncio.run(main(folder)))
