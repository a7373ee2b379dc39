"""OpenAI's SDK for Node, where this machine has it."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.clients.install import NODE


def node_sdk() -> tuple[str | None, Path | None]:
    """node, and the folder whose node_modules hold `openai`: NODE_SDK, where `make clients` installs it, or where npm
    does for everybody."""
    places = [Path(named)] if (named := os.environ.get("NODE_SDK")) else []
    places.append(NODE)
    if npm := shutil.which("npm"):
        told = subprocess.run((npm, "prefix", "--global"), capture_output=True, text=True, check=False)
        places.append(Path(told.stdout.strip()) / "lib")
    found = next((place for place in places if (place / "node_modules" / "openai").is_dir()), None)
    return shutil.which("node"), found


async def asked(node: str, sdk: Path, script: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """What the script said of each of its checks."""
    process = await asyncio.create_subprocess_exec(
        *(node, str(script), *arguments), env=os.environ | {"NODE_SDK": str(sdk)}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(180):  # it generates some hundred tokens, on whatever machine this is
        told, _ = await process.communicate()
    assert process.returncode == 0
    return {one.pop("check"): one for one in map(json.loads, told.splitlines())}
