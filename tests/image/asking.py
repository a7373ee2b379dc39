"""The worker behind a real server, and ways to ask it."""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from image.app import create_app
from image.building import Load
from image.settings import ImageSettings
from tests.fakes.client import Answer, ask, request
from tests.fakes.serving import serving
from tests.fakes.wait import soon
from training.untrained import MODEL

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
Headers = list[tuple[bytes, bytes]]


def settings(data_dir: Path, **given: Any) -> ImageSettings:
    small: dict[str, Any] = {
        "data_dir": data_dir,
        "image_default_size": "64x64",
        "image_default_steps": 2,
        "image_token_budget": 16_896,
        "image_max_side": 1024,
    }
    named = {} if "image_model" in given else {"image_model_id": MODEL}
    return ImageSettings(**(small | named | given))


@asynccontextmanager
async def worker(load: Load, data_dir: Path, **given: Any) -> AsyncIterator[int]:
    """The port of a worker that is ready."""
    async with serving(create_app(settings(data_dir, **given), {MODEL: load})) as port:
        await ready(port)
        yield port


async def ready(port: int) -> None:
    async def until_200() -> None:
        while (await get(port, "/readyz")).status != 200:
            pass

    await soon(until_200())


async def get(port: int, path: str, headers: Headers | None = None) -> Answer:
    return await ask(port, request(b"GET", path.encode(), headers or []))


async def post(port: int, path: str, body: Any, headers: Headers | None = None) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await ask(port, request(b"POST", path.encode(), headers or [], raw))


async def post_form(
    port: int, parts: list[tuple[str, str | bytes]], path: str = EDITS, headers: Headers | None = None
) -> Answer:
    """Bytes are sent as files."""
    boundary = b"a-boundary-of-this-test"
    body = b""
    for name, value in parts:
        file = b'; filename="p.png"' if isinstance(value, bytes) else b""
        raw = value if isinstance(value, bytes) else value.encode()
        disposition = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + file
        body += b"--" + boundary + b"\r\n" + disposition + b"\r\n\r\n" + raw + b"\r\n"
    body += b"--" + boundary + b"--\r\n"
    kind = (b"content-type", b"multipart/form-data; boundary=" + boundary)
    return await post(port, path, body, [kind, *(headers or [])])


def picture(b64: str) -> Image.Image:
    return opened(base64.b64decode(b64))


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def gradient(width: int, height: int, *, mask_from: int | None = None) -> bytes:
    """A PNG; with `mask_from`, transparent to the right of that column."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // width, y * 255 // height, 90) for y in range(height) for x in range(width)])
    if mask_from is not None:
        image.putalpha(Image.new("L", (width, height), 255))
        image.paste((0, 0, 0, 0), (mask_from, 0, width, height))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


async def until(port: int, holds: Any) -> None:
    """Ask for the metrics until they say so."""

    async def ask_again() -> None:
        while not holds((await get(port, "/metrics")).body.decode()):
            pass

    await soon(ask_again())


async def until_idle(port: int) -> dict[str, int]:
    await until(port, lambda text: f'soundstage_image_requests{{model="{MODEL}",state="running"}} 0.0' in text)
    engine = (await get(port, "/health")).json()["engine"]
    return {key: engine[key] for key in ("running", "waiting")}
