"""The main job, done once where a person can see it: a streamed chat answer, and a picture for a message."""

import base64
from pathlib import Path

import aiohttp
from openai import AsyncOpenAI

from compose.show import Show

QUESTION = "What is the capital of France?"
MESSAGE = "Show me a red apple on a wooden table."
PICTURE_TIMEOUT = aiohttp.ClientTimeout(total=600)


async def chat(base_url: str, key: str, show: Show) -> None:
    """Ask one question and print the answer as it comes."""
    show.piece(f"\nYou:    {QUESTION}\nStudio: ")
    async with AsyncOpenAI(base_url=base_url, api_key=key) as client:
        stream = await client.chat.completions.create(
            model="qwen_instruct",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=60,
            temperature=0,
            stream=True,
        )
        async for chunk in stream:
            show.piece((chunk.choices[0].delta.content if chunk.choices else None) or "")
    show.line("")


async def picture(base_url: str, key: str, folder: Path, show: Show) -> Path:
    """Ask for a picture of a message, keep it as a PNG below `folder`, and return its path."""
    show.line(f"\nYou:    {MESSAGE}")
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=PICTURE_TIMEOUT) as session,
        session.post(f"{base_url}/chat/1to1/imagegen", json={"message": MESSAGE, "seed": 7}) as response,
    ):
        answer = await response.json()
        if response.status != 200:
            raise aiohttp.ClientError(str(answer["error"]["message"]))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{answer['run_id']}.png"
    file.write_bytes(base64.b64decode(answer["image_base64"]))
    show.line(f"Studio: {answer['caption']}")
    show.line(f"Picture by {answer['model']}: {file}")
    return file
