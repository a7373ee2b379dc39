"""A worker's door: with a key set only its bearer enters, but for those who ask how it is."""

import pytest

from core.errors import Unauthenticated
from core.worker_key import worker_key_check

WRONG: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "empty": [(b"authorization", b"")],
    "another": [(b"authorization", b"Bearer other")],
    "a prefix": [(b"authorization", b"Bearer secre")],
    "more": [(b"authorization", b"Bearer secret2")],
    "another scheme": [(b"authorization", b"Basic secret")],
    "no scheme": [(b"authorization", b"secret")],
    "another header": [(b"x-api-key", b"secret")],
    "not ascii": [(b"authorization", "Bearer sécret".encode())],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG.keys())
async def test_who_lacks_the_key_stays_out(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await worker_key_check("secret")({"path": "/v1/chat/completions", "headers": headers})
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


async def test_the_bearer_enters() -> None:
    headers = [(b"accept", b"*/*"), (b"authorization", b"Bearer secret")]
    await worker_key_check("secret")({"path": "/v1/models", "headers": headers})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics"])
async def test_anyone_may_ask_how_it_is(path: str) -> None:
    await worker_key_check("secret")({"path": path, "headers": []})


async def test_without_a_key_there_is_no_door() -> None:
    await worker_key_check(None)({"path": "/v1/models", "headers": []})
