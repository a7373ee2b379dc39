"""The image worker as a process of its own, asked by the official Node SDK where Node has it."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.image.processes import free_port, ready, started

pytestmark = pytest.mark.e2e
SCRIPT = Path(__file__).with_name("images.mjs")


def node_sdk() -> Path | None:
    """The folder whose node_modules hold `openai`: NODE_SDK, or where npm installs for everybody."""
    places = [Path(named)] if (named := os.environ.get("NODE_SDK")) else []
    if npm := shutil.which("npm"):
        told = subprocess.run((npm, "prefix", "--global"), capture_output=True, text=True, check=False)
        places.append(Path(told.stdout.strip()) / "lib")
    return next((place for place in places if (place / "node_modules" / "openai").is_dir()), None)


async def test_the_node_sdk(tmp_path: Path) -> None:
    node, sdk = shutil.which("node"), node_sdk()
    if node is None or sdk is None:
        pytest.skip("needs node and its openai package: npm install openai, and NODE_SDK names the folder")
    port = free_port()
    async with started(tmp_path, port):
        await ready(port)
        asked = (node, str(SCRIPT), f"http://127.0.0.1:{port}/v1", "k1")
        process = await asyncio.create_subprocess_exec(
            *asked, env=os.environ | {"NODE_SDK": str(sdk)}, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
    assert process.returncode == 0
    said: dict[str, dict[str, Any]] = {one.pop("check"): one for one in map(json.loads, told.splitlines())}
    partial = "image_generation.partial_image"
    assert said == {
        "generate": {"png": True, "output_tokens": 16},
        "formats": {"webp": ["RIFF", "RIFF"], "format": "webp"},
        "edit": {"size": "64x64", "changed": True},
        "stream": {"events": [[partial, 0, "PNG"], [partial, 1, "PNG"], ["image_generation.completed", None, "PNG"]]},
        "size": {"raised": True, "status": 400, "param": "size", "code": "invalid_size"},
        "unknown": {"raised": True, "status": 400, "param": "style", "code": "extra_forbidden"},
        "key": {"raised": True, "status": 401},
    }
