"""The image worker as a process of its own, asked by the official Node SDK where Node has it."""

from pathlib import Path

import pytest

from tests.e2e.node import asked, node_sdk
from tests.image.processes import free_port, ready, started

pytestmark = pytest.mark.e2e
SCRIPT = Path(__file__).with_name("images.mjs")


async def test_the_node_sdk(tmp_path: Path) -> None:
    node, sdk = node_sdk()
    if node is None or sdk is None:
        pytest.skip("needs node and its openai package: make clients")
    port = free_port()
    async with started(tmp_path, port):
        await ready(port)
        said = await asked(node, sdk, SCRIPT, f"http://127.0.0.1:{port}/v1", "k1")
    partial = "image_generation.partial_image"
    assert said == {
        "generate": {"png": True, "output_tokens": 64},  # of the canvas that it was drawn on
        "formats": {"webp": ["RIFF", "RIFF"], "format": "webp"},
        "edit": {"size": "64x64", "changed": True},
        "stream": {"events": [[partial, 0, "PNG"], [partial, 1, "PNG"], ["image_generation.completed", None, "PNG"]]},
        "size": {"raised": True, "status": 400, "param": "size", "code": "invalid_size"},
        "unknown": {"raised": True, "status": 400, "param": "style", "code": "extra_forbidden"},
        "key": {"raised": True, "status": 401},
    }
