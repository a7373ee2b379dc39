"""`make up`: the whole studio on one machine. Prepare, start, wait, do the main job once, serve, stop every child.

Every child is on a leash (core/process/leash.py), so none outlives this process, however it ends.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai

from compose import first_job, ports, small_model
from compose.services import Service, planned, reached_at
from compose.show import Show
from core.db.embedded import DatabaseError, embedded_postgres
from core.keys import read_or_make
from core.process.child import Child, Command, SupervisedChild
from core.settings import SettingsError

READY_SECONDS = 900.0
POLL_SECONDS = 0.25
MOST_EARLY_EXITS = 3
"""A child that ends this often before it was ever ready will not get there: give up and show its log."""


class StartError(RuntimeError):
    """Something did not start; the message says what, and what to do."""


async def up(show: Show) -> None:
    host = os.environ.get("HOST") or "127.0.0.1"
    port = ports.chosen()
    data = Path(os.environ.get("DATA_DIR") or "data").resolve()
    llm_url = os.environ.get("LLM_URL")
    await _prepare(data, llm_url, show)
    async with contextlib.AsyncExitStack() as stack:
        with show.doing("Postgres"):
            dsn = os.environ.get("DATABASE_URL") or ""
            if not dsn:
                dsn = await stack.enter_async_context(embedded_postgres(data / "postgres"))
        worker_key = os.environ.get("WAN_WORKER_API_KEY") or read_or_make(data / "keys" / "worker_key")
        services = planned(host, port, data, dsn, worker_key, own_engine=not llm_url)
        await stack.enter_async_context(_running(services, show))
        await asyncio.gather(*(_until_ready(service, show) for service in services))
        root = reached_at(host, port["PORT"])
        await _until_ready(replace(services[0], title="all of them together", ready_url=f"{root}/readyz"), show)
        key_file = data / "keys" / "local_api_key"
        base_url = f"{root}/v1"
        await _first_job(base_url, key_file, data / "pictures", show)
        show.line(f"\nSoundstage is ready: {base_url}")
        show.line(f"The local API key is in {key_file}")
        show.line("Ctrl-C stops it.")
        await asyncio.Event().wait()


async def _prepare(data: Path, llm_url: str | None, show: Show) -> None:
    """What is made once: the small chat model."""
    if llm_url or small_model.is_ready(data / "models"):
        return
    if not Path(".venv-vllm/bin/python").exists():
        raise StartError("vLLM is not installed: run `make up`, or name another server with LLM_URL=…")
    with show.doing("Small chat model, prepared once"):
        log = data / "logs" / "small-model.log"
        argv = (sys.executable, "-m", "compose.small_model", str(data / "models"))
        child = await Child.start(Command("small-model", argv, log))
        try:
            code = await child.wait()
        finally:
            await child.stop()
        if code:
            raise StartError(f"The small model could not be prepared:\n{_tail(log)}")


@contextlib.asynccontextmanager
async def _running(services: Sequence[Service], show: Show) -> AsyncIterator[None]:
    """Every service, kept alive for as long as the block runs; then all are stopped, the workers first."""
    running = []
    for service in services:
        service.child = _supervised(service, show)
        running.append(asyncio.create_task(service.child.run()))
    try:
        yield
    finally:
        for task in reversed(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _supervised(service: Service, show: Show) -> SupervisedChild:
    async def ended(code: int) -> None:
        show.line(f"! {service.title} ended with status {code}; starting it again (log: {service.command.log_path})")

    return SupervisedChild(lambda: service.command, on_exit=ended)


async def _until_ready(service: Service, show: Show) -> None:
    """Wait for /readyz. Raises StartError where the child keeps ending, or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    with show.doing(service.title):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await _answers(session, service.ready_url):
                assert service.child is not None
                assert service.command.log_path is not None
                if service.child.restarts >= MOST_EARLY_EXITS or time.monotonic() > deadline:
                    raise StartError(f"The {service.title} did not start:\n{_tail(service.command.log_path)}")
                await asyncio.sleep(POLL_SECONDS)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(url) as response:
            return response.status == 200
    return False


async def _first_job(base_url: str, key_file: Path, pictures: Path, show: Show) -> None:
    """One chat answer and one picture, as a user would ask for them."""
    key = key_file.read_text("utf-8").strip()
    try:
        await first_job.chat(base_url, key, show)
        await first_job.picture(base_url, key, pictures, show)
    except (openai.OpenAIError, aiohttp.ClientError, TimeoutError) as exc:
        raise StartError(f"The studio started, but its first job failed: {exc}") from exc


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    return "\n".join(["  " + line for line in text.splitlines()[-lines:]] + [f"  … all of it: {log}"])


async def _until_signal(work: Coroutine[Any, Any, None]) -> int:
    """Run until the work fails or SIGINT or SIGTERM asks for the end; then everything is stopped in order."""
    task = asyncio.ensure_future(work)
    asked: list[int] = []

    def stop(number: int) -> None:
        asked.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        return 0 if asked and asked[0] == signal.SIGINT else 128 + (asked[0] if asked else 0)
    return 0


def main() -> None:
    show = Show()
    logging.getLogger("core").setLevel(logging.ERROR)  # what a person should know, `show` says
    ports.check(ports.chosen(), os.environ.get("HOST") or "127.0.0.1")
    try:
        code = asyncio.run(_until_signal(up(show)))
    except (StartError, DatabaseError, SettingsError) as exc:
        sys.exit(str(exc))
    show.line("Soundstage has stopped.")
    sys.exit(code)


if __name__ == "__main__":
    main()
