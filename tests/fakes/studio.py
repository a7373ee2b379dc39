"""A whole orchestrator behind a real uvicorn, over a database of its own, with fake workers that it reaches by HTTP."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI
from starlette.types import ASGIApp

from core.watchers import Watchers
from orchestrator.app import create_app
from orchestrator.operate.tracing import Tracing
from orchestrator.settings import OrchestratorSettings
from tests.fakes import fake_engine
from tests.fakes.scripted_worker import ScriptedWorker
from tests.fakes.serving import serving
from tests.fakes.wait import soon
from tests.fakes.workers import DrawingWorker, ImageWorker, ProvingWorker, SelfieWorker, StoryWorker

W = TypeVar("W", bound=ScriptedWorker)
WORKER_KEY = "the-worker-key"
LEASE_SECONDS = 600.0
CHAT_ABILITIES = ("chat", "completions", "responses", "embeddings", "tokenize")
DRAWS = {"kind": "image", "models": [{"id": "tiny-image", "abilities": ["images", "image_edits"]}]}


class Studio:
    """One orchestrator. `key` is its local key, which may do everything but register workers."""

    def __init__(self, port: int, key: str, stack: AsyncExitStack, watchers: Watchers | None = None) -> None:
        self.watchers = watchers or Watchers()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.key = key
        self._stack = stack
        # Plain HTTP: loading the certificates that TLS wants takes longer than most tests.
        self.http = httpx2.AsyncClient(base_url=self.url, timeout=120, trust_env=False, verify=False)
        stack.push_async_callback(self.http.aclose)

    def sdk(self, key: str | None = None, **options: Any) -> AsyncOpenAI:
        """The official client, which here never tries twice by itself."""
        key = self.key if key is None else key
        own: dict[str, Any] = {
            "max_retries": 0,
            "timeout": 120,
            "http_client": httpx2.AsyncClient(verify=False),
            **options,
        }
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **own)
        self._stack.push_async_callback(client.close)
        return client

    async def post(self, path: str, body: Any = None, *, key: str | None = None, **sent: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.key if key is None else key}", **sent.pop("headers", {})}
        return await self.http.post(path, json=body, headers=headers, **sent)

    async def get(self, path: str, *, key: str | None = None) -> httpx2.Response:
        return await self.http.get(path, headers={"authorization": f"Bearer {self.key if key is None else key}"})

    async def register(self, worker_id: str, url: str, **announced: Any) -> httpx2.Response:
        """Announce a chat worker that answers to `small` and `qwen_instruct`, or as `announced` says."""
        models = [{"id": "small", "aliases": ["qwen_instruct"], "abilities": CHAT_ABILITIES}]
        body = {"id": worker_id, "kind": "chat", "url": url, "models": models, **announced}
        return await self.post("/v1/workers", body, key=WORKER_KEY)

    async def chat_worker(
        self, worker_id: str = "chat-1", names: Sequence[str] = ("small", "qwen_instruct"), **announced: Any
    ) -> "ChatWorker":
        """A fake engine as a worker, started and registered."""
        url = await self.serve(fake_engine.create_app(list(names), WORKER_KEY))
        models = [{"id": names[0], "aliases": names[1:], "abilities": CHAT_ABILITIES}]
        answer = await self.register(worker_id, url, **{"models": models, **announced})
        assert answer.status_code == 200, answer.text
        worker = ChatWorker(url)
        self._stack.push_async_callback(worker.http.aclose)
        return worker

    async def start(self, worker: W, worker_id: str, **announced: Any) -> W:
        """A fake worker, started and registered."""
        answer = await self.register(worker_id, await self.serve(worker.app()), **announced)
        assert answer.status_code == 200, answer.text
        return worker

    async def proving_worker(self, worker_id: str = "prover") -> ProvingWorker:
        """A chat worker that reports hashes."""
        return await self.start(ProvingWorker(), worker_id)

    async def scripted_worker(self, worker_id: str = "scripted") -> StoryWorker:
        """A chat worker that expands and captions as it is told to."""
        return await self.start(StoryWorker(), worker_id)

    async def image_worker(self, worker_id: str = "image-1", **announced: Any) -> ImageWorker:
        return await self.start(ImageWorker(), worker_id, **{**DRAWS, **announced})

    async def drawing_worker(self, worker_id: str = "image-1", **announced: Any) -> DrawingWorker:
        """One that draws several pictures and shows previews."""
        return await self.start(DrawingWorker(), worker_id, **{**DRAWS, **announced})

    async def selfie_worker(self, worker_id: str = "selfie-1") -> SelfieWorker:
        models = [{"id": "faces", "abilities": ["faces"]}]
        return await self.start(SelfieWorker(), worker_id, kind="selfie", models=models)

    async def serve(self, app: ASGIApp) -> str:
        return f"http://127.0.0.1:{await self._stack.enter_async_context(serving(app))}"


class ChatWorker:
    """A fake engine that is told how to behave and asked what it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx2.AsyncClient(base_url=url, timeout=120, trust_env=False)

    async def behave(self, **behaviour: Any) -> None:
        (await soon(self.http.post("/fake", json=behaviour))).raise_for_status()

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await soon(self.http.get("/fake"))).json()
        return state

    async def received(self) -> list[dict[str, Any]]:
        """Each request as {"path", "headers", "body"}, oldest first."""
        received: list[dict[str, Any]] = (await self.state())["received"]
        return received


@asynccontextmanager
async def studio_over(
    dsn: str,
    data_dir: Path,
    tracing: Tracing | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    **given: Any,
) -> AsyncIterator[Studio]:
    """An orchestrator with these settings, whatever this machine's environment says; then it and its workers stop.
    `transport`: what its openai clients call workers over."""
    settings = OrchestratorSettings.load(
        **{
            **{"data_dir": data_dir, "wan_worker_api_key": WORKER_KEY, "llm_url": None, "log_level": "warning"},
            "ready_probe_seconds": 0,  # a probe would be one more request at a fake that counts them
            "lease_seconds": LEASE_SECONDS,  # its workers announce themselves once, and a busy machine takes its time
            "warm_recipes": False,  # nor are these
            "durable_jobs": False,  # the durable engine is one for a process: a test that needs it says so
            **given,
        }
    )
    app = create_app(settings, dsn, tracing, transport)
    async with serving(app) as port, AsyncExitStack() as stack:
        key = (data_dir / "keys" / "local_api_key").read_text().strip()
        yield Studio(port, key, stack, app.watchers)
