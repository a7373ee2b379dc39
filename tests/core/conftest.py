"""One gateway for all tests of the relay; each test brings its own upstream, relay and timeouts."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from core.http.relay import Relay, Timeouts
from core.settings import Settings
from tests.fakes.gateway import Gateway
from tests.fakes.serving import serving
from tests.fakes.upstream import Upstream

WithTimeouts = Callable[..., Coroutine[Any, Any, Gateway]]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults, whatever the environment of this machine says."""
    for name in ("HOST", "PORT", "DATA_DIR", "LOG_LEVEL", "LOG_FORMAT", "MAX_BODY_BYTES", "SOUNDSTAGE_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    return Settings.load()


@pytest.fixture(scope="session")
async def _gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    async with serving(gateway.app(Settings.load(max_body_bytes=8 << 20))) as gateway.port:
        yield gateway


@pytest.fixture
async def gateway_with(_gateway: Gateway, upstream: Upstream) -> AsyncIterator[WithTimeouts]:
    """The gateway in front of `upstream`, with a relay of these timeouts (seconds) that are swept often."""
    async with AsyncExitStack() as stack:

        async def build(**timeouts: float) -> Gateway:
            _gateway.relay = await stack.enter_async_context(Relay(Timeouts(**timeouts), sweep_seconds=0.01))
            _gateway.engine = upstream.url
            return _gateway

        _gateway.forwarding.clear()
        yield build
        while not _gateway.outcomes.empty():
            _gateway.outcomes.get_nowait()


@pytest.fixture
async def gateway(gateway_with: WithTimeouts) -> Gateway:
    return await gateway_with()
