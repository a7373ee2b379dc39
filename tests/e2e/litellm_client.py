"""LiteLLM as a client, from its own environment: what it is to say, and how it is asked."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from bench.relay.peers import LITELLM

PYTHON = LITELLM.environment / "bin" / "python"
SCRIPT = Path(__file__).with_name("chat_litellm.py")
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


def is_there() -> bool:
    return PYTHON.exists()


async def asked(base_url: str, key: str) -> dict[str, dict[str, Any]]:
    """What LiteLLM said of each of its checks."""
    command = (str(PYTHON), "-P", str(SCRIPT), base_url, key)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    said = [json.loads(line) for line in told.splitlines() if line.startswith(b"{")]
    return {one.pop("check"): one for one in said}
