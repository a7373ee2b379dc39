"""The whole studio with the small model in a real vLLM, for as long as a measurement takes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import aiohttp

from bench.harness import ROOT, machine
from compose import small_model
from tests.e2e.studio import Studio, data_directory, running_studio


def end(run: Callable[[Studio], Awaitable[int]]) -> NoReturn:
    """Exit with what `run` returns. The command line may name a folder of prepared models, else the checkout's."""
    models = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "data" / "models"
    small_model.prepare(models)
    sys.exit(asyncio.run(_started(models, run)))


async def _started(models: Path, run: Callable[[Studio], Awaitable[int]]) -> int:
    with data_directory(models) as data:
        async with running_studio(data) as studio:
            return await run(studio)


async def setting(studio: Studio) -> str:
    """What a page says of where its figures were taken."""
    url = f"http://127.0.0.1:{studio.engine_port()}/version"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        version = (await answer.json())["version"]
    facts = machine()
    return f"vLLM {version}, the small model, {facts['system']}, {facts['cores']} cores"
