"""A client that leaves frees the engines: read from vLLM's own metrics, and from the image engine."""

import asyncio
from typing import Any

import aiohttp

from tests.e2e.studio import Studio, until_zero

RUNNING = "vllm:num_requests_running"
LONG: Any = {"max_tokens": 3000, "temperature": 0, "ignore_eos": True}


async def busy(studio: Studio, metric: str = RUNNING) -> None:
    async with asyncio.timeout(120):
        while not await studio.engine_metric(metric):
            await asyncio.sleep(0.02)


async def freed(studio: Studio) -> None:
    await until_zero(lambda: studio.engine_metric(RUNNING), "vLLM's number of running requests")
    await until_zero(lambda: studio.engine_metric("vllm:num_requests_waiting"), "vLLM's number of waiting requests")


async def test_leaving_mid_stream(studio: Studio) -> None:
    body = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "Count."}], "stream": True, **LONG}
    async with studio.session() as session:
        async with session.post(f"{studio.base_url}/chat/completions", json=body) as response:
            await response.content.readany()
            assert await studio.engine_metric(RUNNING) == 1
            response.close()
    await freed(studio)


async def test_leaving_before_the_first_byte(studio: Studio) -> None:
    body = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "Count."}], **LONG}
    async with studio.session() as session:
        asked = asyncio.ensure_future(session.post(f"{studio.base_url}/chat/completions", json=body))
        await busy(studio)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await freed(studio)


async def test_leaving_a_recipe_stream(studio: Studio) -> None:
    body = {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": "Hi"}], **LONG}
    async with studio.session() as session:
        async with session.post(f"{studio.base_url}/chat/completions", json={**body, "stream": True}) as response:
            await response.content.readany()
            response.close()
    await freed(studio)


async def test_leaving_a_pipeline_while_it_expands(studio: Studio) -> None:
    async with studio.session() as session:
        body = {"message": "Show me a lighthouse in a storm."}
        asked = asyncio.ensure_future(session.post(f"{studio.base_url}/chat/1to1/imagegen", json=body))
        await busy(studio)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await freed(studio)
    assert (await studio.image_engine())["running"] == 0


async def test_leaving_a_pipeline_while_it_draws(studio: Studio) -> None:
    before = await studio.broken_off()
    async with studio.session() as session:
        body = {"message": "Show me a lighthouse.", "size": "1024x1024"}
        asked = asyncio.ensure_future(session.post(f"{studio.base_url}/chat/1to1/imagegen", json=body))
        async with asyncio.timeout(180):
            while not (await studio.image_engine())["running"]:
                await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await until_zero(lambda: _image_load(studio), "the image engine's load")
    assert await studio.broken_off() == before + 1
    await freed(studio)


async def _image_load(studio: Studio) -> float:
    engine = await studio.image_engine()
    return engine["running"] + engine["waiting"]


async def test_the_studio_still_answers(studio: Studio) -> None:
    async with studio.session() as session, session.get(f"{studio.base_url}/models") as response:
        assert response.status == 200
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{studio.port['PORT']}/metrics") as response:
            text = await response.text()
    assert 'soundstage_client_disconnects_total{service="orchestrator"}' in text
