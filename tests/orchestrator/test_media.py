"""Pictures by address: none is fetched unless the operator says so, and never from a private address."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from core.errors import InvalidRequest, Unavailable
from orchestrator.gateway.media import Media

PICTURE = b"\x89PNG\r\n\x1a\n and so on"
DATA = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def body_of(address: Any, key: str = "image_url") -> bytes:
    part = {"type": key, key: address}
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=PICTURE, content_type="image/png")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(17 * 1024 * 1024), content_type="image/png")

    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"location": request.query["to"]})

    app = web.Application()
    app.add_routes([web.get("/p.png", picture), web.get("/page", page), web.get("/large", large)])
    app.add_routes([web.get("/moved", moved)])
    runner = web.AppRunner(app)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    assert runner.addresses
    yield f"http://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


UNTOUCHED = {
    "no address": b'{"messages": [{"role": "user", "content": "look at http://10.0.0.1/"}]}',
    "a data: URL": body_of({"url": DATA}),
    "a data: URL of the older form": body_of(DATA),
    "an escaped letter": b'{"messages": [{"role": "user", "content": "caf\\u00e9"}]}',
    "a tool's field": b'{"tools": [{"function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}]}',
    "a recipe's variable": b'{"prompt": {"id": "r", "variables": {"image_url": "http://a/"}}}',
    "a form": b"--x\r\nimage_url",
    "a list": b'["image_url"]',
}


@pytest.mark.parametrize("body", UNTOUCHED.values(), ids=UNTOUCHED.keys())
async def test_what_names_no_address_passes_byte_for_byte(body: bytes) -> None:
    assert await Media(()).settled(body, admin=False) is body


REFUSED = {
    "http": body_of({"url": "http://example.com/p.png"}),
    "https, of the older form": body_of("https://example.com/p.png"),
    "a file": body_of({"url": "file:///etc/passwd"}),
    "a video": body_of({"url": "http://example.com/v.mp4"}, "video_url"),
    "a sound": body_of({"url": "http://example.com/v.wav"}, "audio_url"),
    "a document": body_of("http://example.com/a.pdf", "file_url"),
    "of an image's request": b'{"prompt": "a hat", "image_url": "http://example.com/p.png"}',
    "an escaped name": body_of({"url": "http://example.com/p.png"}).replace(b'"image_url":', b'"image\\u005furl":'),
    "of /v1/responses": json.dumps(
        {"input": [{"content": [{"type": "input_image", "image_url": "http://a/"}]}]}
    ).encode(),
    "with a name and a password": body_of({"url": "http://me:secret@allowed.example/p.png"}),
    "a name that only ends alike": body_of({"url": "http://notallowed.example/p.png"}),
    "a name that only begins alike": body_of({"url": "http://allowed.example.evil.example/p.png"}),
    "not a URL": body_of({"url": "http://[::1"}),
    "nothing": body_of({"url": ""}),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
async def test_other_addresses_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Media(["allowed.example"]).settled(body, admin=True)
    assert caught.value.code == "media_url_refused"
    assert "example.com" not in caught.value.message, "an address may hold a secret: no echo"


async def test_an_allowed_picture_is_fetched_here(site: str) -> None:
    media = Media(["localhost"], allowed=lambda _: True)
    for address in (f"{site}/p.png", f"{site}/moved?to=/p.png", f"{site}/moved?to={site}/moved?to=/p.png"):
        for form in ({"url": address, "detail": "low"}, address):
            settled = json.loads(await media.settled(body_of(form), admin=False))
            part = settled["messages"][0]["content"][0]["image_url"]
            assert part == ({"url": DATA, "detail": "low"} if isinstance(form, dict) else DATA)


async def test_an_allowed_name_that_leads_to_a_private_address_is_not_asked(site: str) -> None:
    with pytest.raises(Unavailable):
        await Media(["localhost"]).settled(body_of(f"{site}/p.png"), admin=True)
    with pytest.raises(InvalidRequest):
        await Media(["127.0.0.1"]).settled(body_of(site.replace("localhost", "127.0.0.1") + "/p.png"), admin=True)


async def test_redirects_lead_nowhere_else(site: str) -> None:
    media = Media(["localhost"], allowed=lambda _: True)
    endless = f"{site}/moved?to=" + f"{site}/moved%3Fto%3D" * 4 + "/p.png"
    for target in (f"{site}/moved?to=http://127.0.0.1:1/", f"{site}/moved?to=file:///etc/passwd", endless):
        with pytest.raises(InvalidRequest):
            await media.settled(body_of(target), admin=True)


@pytest.mark.parametrize("path", ["/page", "/missing", "/large"])
async def test_what_is_no_picture_is_refused(site: str, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Media(["localhost"], allowed=lambda _: True).settled(body_of(site + path), admin=True)
    assert caught.value.code == "media_url_refused"


NESTED = {
    "at the top": b'{"chat_template_kwargs": {"enable_thinking": false}}',
    "nested": b'{"extra_body": {"deep": [{"chat_template": "x"}]}}',
    "escaped": b'{"extra_body": {"chat\\u005ftemplate": "x"}}',
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED.keys())
async def test_what_changes_the_template_is_an_admins(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Media(()).settled(body, admin=False)
    assert caught.value.code == "field_refused"
    assert await Media(()).settled(body, admin=True) is body
