"""Requests made from the published OpenAPI, right ones and wrong ones, and what the studio answered with a 5xx.

schemathesis makes them, hypothesis chooses: the same ones each time, as every property test here.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

AT_ONCE = 16
NOBODY = "http://127.0.0.1:9/"
_url = TypeAdapter(AnyHttpUrl).validate_python
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
EVERYTHING_BUT = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


@dataclass(frozen=True)
class Made:
    """A request as it is sent."""

    operation: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.operation}: {self.method} {self.path} {self.body[:400]!r}"


def made(described: dict[str, Any], examples: int) -> Iterator[Made]:
    """So many of each operation and mode."""
    schema = schemathesis.openapi.from_dict(described)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        wrong = bool(operation.body or operation.query)  # a name within a path cannot be: any text is one
        for mode in MODES if wrong else MODES[:1]:
            yield from _of(operation, mode, examples)


def _of(operation: Any, mode: GenerationMode, examples: int) -> list[Made]:
    cases: list[Made] = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        database=None,
        derandomize=os.environ.get("HYPOTHESIS_PROFILE", "repeatable") == "repeatable",
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(EVERYTHING_BUT),
    )
    def collect(case: Case[Any]) -> None:
        request = requests.Request(**case.as_transport_kwargs(base_url="http://studio")).prepare()
        sent: Any = request.body or b""
        body = sent.encode() if isinstance(sent, str) else bytes(sent)
        path = (request.url or "").removeprefix("http://studio")
        headers = {name: str(value) for name, value in request.headers.items() if name.lower() == "content-type"}
        cases.append(Made(operation.label, str(request.method), path, headers, _near(body)))

    with contextlib.suppress(Unsatisfiable):
        collect()
    return cases


def _near(body: bytes) -> bytes:
    """The same, but every address in it is one of this machine's where nobody listens: the studio asks some of them."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    nearer = _nearer(value)
    return body if nearer == value else json.dumps(nearer).encode()


def _nearer(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nearer(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_nearer(each) for each in value]
    try:
        _url(value)
    except ValidationError:
        return value
    return NOBODY


async def provoked(http: httpx2.AsyncClient, key: str, asked: list[Made]) -> list[str]:
    """Each request that was answered with a 5xx, with the answer."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(request: Made) -> str | None:
        headers = request.headers | {"authorization": f"Bearer {key}"}
        async with gate:
            answer = await http.request(request.method, request.path, headers=headers, content=request.body)
        return f"{answer.status_code} {request} -> {answer.text[:300]}" if answer.status_code >= 500 else None

    return [found for found in await asyncio.gather(*map(one, asked)) if found]
