"""`make up` with another OpenAI-compatible server in vLLM's place, and with a port that is taken."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from tests.e2e.studio import ROOT, free_ports, running_studio, temporary_data


@asynccontextmanager
async def other_server() -> AsyncIterator[str]:
    """A server that knows one model, by a name of its own."""
    port = free_ports(("ENGINE",))["ENGINE"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.fake_engine", "--model", "mistral-small", "--port", str(port)), cwd=ROOT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}/health") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.1)
        yield f"{url}/v1"
    finally:
        process.terminate()
        await process.wait()


async def test_any_openai_compatible_server_takes_vllms_place() -> None:
    async with other_server() as url:
        with temporary_data() as data:
            async with running_studio(data, LLM_URL=url) as studio:
                assert "Studio: What is the capital of France?" in studio.text  # the server repeats what it hears
                async with studio.client() as client:
                    names = {model.id async for model in client.models.list()}
                assert "vLLM" not in studio.text
                started = studio.processes()
                assert await studio.stop(signal.SIGINT) == 0
                assert "Soundstage has stopped." in studio.text
                assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert {"mistral-small", "qwen_instruct", "qwen_base"} <= names


async def test_a_taken_port_is_a_sentence_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "compose.up"),
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "PORT": port, "DATA_DIR": str(tmp_path / "data")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await process.communicate()
    assert process.returncode == 1
    assert complaint.decode().startswith(f"Port {port} cannot be used (Address already in use).")
    assert "Traceback" not in complaint.decode()
    assert not (tmp_path / "data").exists()
