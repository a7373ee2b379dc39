"""What the shell records of a request: bounded metrics, and an access log that holds no secret."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from core.http.access_log import FLUSH_LINES, AccessLog
from tests.core.shell import SERVICE, Service
from tests.fakes.client import ask, connected, request
from tests.fakes.serving import serving
from tests.fakes.wait import soon


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with serving(service.app()) as service.port:
        yield service


async def exported(service: Service) -> dict[str, float]:
    """The samples of this service, by name and labels."""
    answer = await ask(service.port, request(b"GET", b"/metrics"))
    assert (answer.header(b"content-type") or b"").startswith(b"text/plain")
    samples = (line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if f'service="{SERVICE}"' in line)
    return {name: float(value) for name, value in samples}


def requests(route: str, status: int) -> str:
    return f'soundstage_http_requests_total{{route="{route}",service="{SERVICE}",status="{status}"}}'


ROUTES = {
    "raw": (b"POST", b"/raw", "/raw", 200),
    "raw, wrong method": (b"GET", b"/raw", "/raw", 405),
    "raw, failing": (b"GET", b"/raw/bug", "/raw/bug", 500),
    "template, not value": (b"POST", b"/items/77", "/items/{number}", 400),
    "template, wrong method": (b"GET", b"/items/77", "/items/{number}", 405),
    "unmatched": (b"GET", b"/no/such", "unmatched", 404),
}


@pytest.mark.parametrize(("method", "path", "route", "status"), ROUTES.values(), ids=ROUTES.keys())
async def test_requests_are_counted_by_route_and_status(
    service: Service, method: bytes, path: bytes, route: str, status: int
) -> None:
    before = (await exported(service)).get(requests(route, status), 0)
    await ask(service.port, request(method, path, [], b""))
    assert (await exported(service))[requests(route, status)] == before + 1


async def test_made_up_paths_and_methods_make_no_labels(service: Service) -> None:
    await ask(service.port, request(b"GET", b"/none"))
    await ask(service.port, request(b"PATCH", b"/raw"))
    before = set(await exported(service))
    async with connected(service.port) as client:
        for n in range(50):
            await client.send(request(b"GET", b"/made-up/%d?q=%d" % (n, n)))
            await client.answer()
            await client.send(request([b"MKCOL", b"PROPFIND", b"PATCH"][n % 3], b"/raw"))
            await client.answer()
    assert set(await exported(service)) == before


async def test_a_request_in_flight_shows(service: Service) -> None:
    gauge = f'soundstage_http_requests_in_flight{{service="{SERVICE}"}}'
    async with connected(service.port) as client:
        await client.send(request(b"POST", b"/hang", [], b"{}"))
        await soon(service.hanging.wait())
        assert (await exported(service))[gauge] == 2  # and the request that asks


async def test_the_access_log_has_a_json_line_for_each_request(service: Service) -> None:
    await ask(service.port, request(b"POST", b"/raw", [(b"X-Request-Id", b"r-1")], b"{}"))
    await ask(service.port, request(b"GET", b"/gr%C3%BC%22%0A", [(b"X-Request-Id", b"r-2")]))
    first, second = service.lines()
    assert {k: first[k] for k in first.keys() - {"time", "ms"}} == {
        "service": SERVICE,
        "request_id": "r-1",
        "method": "POST",
        "path": "/raw",
        "status": 200,
        "outcome": "finished",
    }
    assert (second["path"], second["status"], second["outcome"]) == ('/grü"\n', 400, "finished")
    assert isinstance(first["time"], float)
    assert isinstance(first["ms"], float)


async def test_the_access_log_holds_no_secret(service: Service) -> None:
    secrets = [(b"Authorization", b"Bearer sk-secret"), (b"Cookie", b"session=secret"), (b"X-Api-Key", b"secret")]
    await ask(service.port, request(b"POST", b"/raw?token=secret#secret", secrets, b'{"key":"secret"}'))
    assert len(service.lines()) == 1
    assert "secret" not in "".join(service.log)


async def test_probes_are_not_logged(service: Service) -> None:
    for path in (b"/healthz", b"/readyz", b"/metrics"):
        await ask(service.port, request(b"GET", path))
    assert service.lines() == []


async def test_lines_are_written_in_batches() -> None:
    written: list[str] = []
    log = AccessLog("s", write=written.append)
    for n in range(FLUSH_LINES + 1):
        log.add({"request_id": f"r{n}", "method": "GET", "path": "/"}, 200, "finished", 0.001)
    assert [text.count("\n") for text in written] == [FLUSH_LINES]
    log.flush()
    assert json.loads(written[1])["request_id"] == f"r{FLUSH_LINES}"
    log.flush()
    assert len(written) == 2, "an empty batch is not written"


async def test_a_lone_line_is_written_by_itself_soon() -> None:
    written: asyncio.Queue[str] = asyncio.Queue()
    log = AccessLog("s", write=written.put_nowait)
    waited = {"key_id": "key-1", "worker": "w-1", "waited": 0.0101234, "waited_for": "chat small"}
    log.add({"request_id": "r", "method": "GET", "path": "/", **waited}, 200, "finished", 0.0123456)
    line = json.loads(await soon(written.get()))
    assert (line["ms"], line["key_id"]) == (12.35, "key-1")
    assert (line["worker"], line["waited_ms"], line["waited_for"]) == ("w-1", 10.12, "chat small")


async def test_what_is_left_is_written_when_the_service_stops() -> None:
    service = Service()
    async with serving(service.app()) as service.port:
        await ask(service.port, request(b"GET", b"/last"))
    assert re.search(r'"path":"/last"', "".join(service.log))
