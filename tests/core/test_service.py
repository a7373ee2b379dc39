"""The shell around every service, seen from outside: ids, limits, envelopes, health, disconnects."""

import contextlib
import logging
import re
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY
from starlette.types import Scope

from core.http.serving import bind
from core.service import Readiness
from tests.core.shell import LIMIT, SECRET, SERVICE, Service
from tests.fakes.client import ask, connected, request
from tests.fakes.serving import serving
from tests.fakes.wait import eventually, soon

JSON = (b"Content-Type", b"application/json")
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with serving(service.app()) as service.port:
        yield service


@pytest.mark.parametrize("path", [b"/healthz", b"/raw/overloaded", b"/nowhere", b"/bug"], ids=bytes.decode)
@pytest.mark.parametrize(
    "given",
    [b"req-1", b"A.b_c:d-9", b"x" * 128],
    ids=["plain", "every kind of character", "as long as may be"],
)
async def test_the_callers_request_id_comes_back_once(service: Service, path: bytes, given: bytes) -> None:
    answer = await ask(service.port, request(b"GET", path, [(b"X-Request-Id", given)]))
    assert answer.all(b"x-request-id") == [given]


@pytest.mark.parametrize(
    "given",
    [None, b"", b"x" * 129, b"two words", b'quo"te', "ü".encode(), b"a\tb"],
    ids=["none", "empty", "too long", "space", "quote", "not ascii", "tab"],
)
async def test_any_other_request_id_is_replaced(service: Service, given: bytes | None) -> None:
    headers = [] if given is None else [(b"X-Request-Id", given)]
    answer = await ask(service.port, request(b"GET", b"/healthz", headers))
    assert re.fullmatch(rb"[0-9a-f]{24}", answer.header(b"x-request-id") or b"")


async def test_the_application_sees_the_same_id(service: Service) -> None:
    answer = await ask(service.port, request(b"POST", b"/raw", [(b"X-Request-Id", b"seen")], b"{}"))
    assert answer.json() == {"bytes": 2, "request_id": "seen"}


@pytest.mark.parametrize("path", [b"/raw", b"/items/1"], ids=["raw", "fastapi"])
@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_a_body_over_the_limit_is_413(service: Service, path: bytes, stated: bool) -> None:
    body = b'{"name":"%s"}' % (b"n" * LIMIT)
    if stated:
        data = request(b"POST", path, [JSON], body)
    else:
        data = request(b"POST", path, [JSON, CHUNKED]) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = await ask(service.port, data)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(service: Service) -> None:
    async with connected(service.port) as client:
        await client.send(request(b"POST", b"/raw", [JSON, (b"Content-Length", b"1000000000000")]))
        assert (await client.answer()).status == 413


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunked"])
async def test_a_body_of_the_limit_passes(service: Service, stated: bool) -> None:
    if stated:
        data = request(b"POST", b"/raw", [], b"x" * LIMIT)
    else:
        data = request(b"POST", b"/raw", [CHUNKED]) + b"%x\r\n%s\r\n0\r\n\r\n" % (LIMIT, b"x" * LIMIT)
    assert (await ask(service.port, data)).json()["bytes"] == LIMIT


@pytest.mark.parametrize("length", [b"-1", b"ten", b"1_0", b"+5", b"1, 2", b"9" * 40, b"\xb2"])
async def test_a_malformed_length_is_400_and_harms_nobody(service: Service, length: bytes) -> None:
    async with connected(service.port) as client:
        await client.send(request(b"POST", b"/raw", [(b"Content-Length", length)]))
        assert (await client.head()).status == 400
    assert (await ask(service.port, request(b"GET", b"/healthz"))).status == 200


@pytest.mark.parametrize("length", [b"-1", b"ten", b"1_0", b""])
async def test_the_shell_itself_survives_a_malformed_length(service: Service, length: bytes) -> None:
    """Some other server might let it through."""
    sent = []

    async def send(message: Scope) -> None:
        sent.append(message)

    async def receive() -> Scope:
        return {"type": "http.request", "body": b"x" * (LIMIT + 1)}

    scope = {"type": "http", "method": "POST", "path": "/raw", "headers": [(b"content-length", length)]}
    await service.app()(scope, receive, send)
    assert sent[0]["status"] == 413


ENVELOPES = {
    "no such path": (b"GET", b"/nowhere", None, 404, "not_found", None),
    "wrong method": (b"DELETE", b"/items/1", None, 405, "method_not_allowed", None),
    "wrong method, raw": (b"DELETE", b"/raw", None, 405, "method_not_allowed", None),
    "missing field": (b"POST", b"/items/1", b"{}", 400, "missing", "name"),
    "wrong type within": (b"POST", b"/items/1", b'{"name":"n","sizes":[1,"x"]}', 400, "int_parsing", "sizes.1"),
    "wrong path value": (b"POST", b"/items/x", b'{"name":"n"}', 400, "int_parsing", "number"),
    "wrong query value": (b"POST", b"/items/1?query=x", b'{"name":"n"}', 400, "int_parsing", "query"),
    "not JSON": (b"POST", b"/items/1", b'{"name":', 400, "json_invalid", None),
    "not UTF-8": (b"POST", b"/items/1", b'{"name":"\xff"}', 400, "json_invalid", None),
    "no body": (b"POST", b"/items/1", b"", 400, "missing", None),
    "not an object": (b"POST", b"/items/1", b"[1]", 400, "model_attributes_type", None),
    "bug": (b"GET", b"/bug", None, 500, "internal_error", None),
    "bug, raw": (b"GET", b"/raw/bug", None, 500, "internal_error", None),
    "overloaded": (b"GET", b"/overloaded", None, 429, None, None),
    "overloaded, raw": (b"GET", b"/raw/overloaded", None, 429, None, None),
    "http exception": (b"GET", b"/http/418", None, 418, None, None),
    "http exception of ours": (b"GET", b"/http/503", None, 503, None, None),
}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"), ENVELOPES.values(), ids=ENVELOPES.keys()
)
async def test_every_error_is_the_envelope(
    service: Service, method: bytes, path: bytes, body: bytes | None, status: int, code: str | None, param: str | None
) -> None:
    answer = await ask(service.port, request(method, path, [JSON], body))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert answer.header(b"content-type") == b"application/json"
    assert answer.header(b"x-request-id")
    assert isinstance(answer.error["message"], str)
    assert SECRET.encode() not in answer.body
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    ("path", "kind"),
    [(b"/http/418", "invalid_request_error"), (b"/http/500", "server_error"), (b"/http/502", "upstream_error")],
)
async def test_a_foreign_http_exception_gets_a_fitting_type(service: Service, path: bytes, kind: str) -> None:
    answer = await ask(service.port, request(b"GET", path))
    assert (answer.error["type"], answer.error["message"], answer.header(b"x-kept")) == (kind, "said so", b"1")


@pytest.mark.parametrize(("path", "allow"), [(b"/raw", b"POST, PUT"), (b"/items/1", b"POST")], ids=["raw", "fastapi"])
async def test_405_says_what_is_allowed(service: Service, path: bytes, allow: bytes) -> None:
    assert (await ask(service.port, request(b"PATCH", path))).all(b"allow") == [allow]


@pytest.mark.parametrize("path", [b"/overloaded", b"/raw/overloaded"], ids=["fastapi", "raw"])
async def test_retry_after_is_whole_seconds_rounded_up(service: Service, path: bytes) -> None:
    assert (await ask(service.port, request(b"GET", path))).all(b"retry-after") == [b"2"]


async def test_a_bug_is_logged_under_the_request_id(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    for path in (b"/bug", b"/raw/bug"):
        with caplog.at_level(logging.ERROR, logger="core.http.shell"):
            await ask(service.port, request(b"GET", path, [(b"X-Request-Id", b"find-me")]))
        (record,) = (r for r in caplog.records if r.name == "core.http.shell")
        assert (record.__dict__["request_id"], SECRET in (record.exc_text or "")) == ("find-me", True)
        caplog.clear()


async def test_a_bug_after_the_answer_began_cuts_it_off(service: Service) -> None:
    answer = await ask(service.port, request(b"GET", b"/raw/late-bug"))
    assert (answer.status, answer.body, answer.whole) == (200, b"half", False)


async def test_readiness_is_what_the_service_says(service: Service) -> None:
    for ok, status in ((True, 200), (False, 503)):
        service.readiness = Readiness(ok, {"workers": 2})
        answer = await ask(service.port, request(b"GET", b"/readyz"))
        assert (answer.status, answer.json()) == (status, {"ready": ok, "workers": 2})
    assert (await ask(service.port, request(b"GET", b"/healthz"))).json() == {"status": "ok"}


@pytest.mark.parametrize("path", [b"/hang", b"/hang/midway"], ids=["before the answer", "within it"])
async def test_a_client_that_leaves_ends_its_work_and_is_counted(
    service: Service, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> float:
        return REGISTRY.get_sample_value("soundstage_client_disconnects_total", {"service": SERVICE}) or 0

    before = gone()
    service.hanging.clear()
    async with connected(service.port) as client:
        await client.send(request(b"POST", path, [JSON], b"{}"))
        await soon(service.hanging.wait())
        client.leave()
        await eventually(lambda: gone() == before + 1, "the count of those who left")
    assert service.lines()[-1]["status"] == 499
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_busy_port_ends_the_process_with_a_sentence() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as sock, pytest.raises(SystemExit, match="Choose another with PORT"):
        bind("127.0.0.1", sock.getsockname()[1])
