"""The names by which bench/pipelines knows what bench/harness.py holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench import harness
from bench.harness import free_port

__all__ = ["free_port", "running"]


@asynccontextmanager
async def running(name: str, argv: tuple[str, ...], port: int, folder: Path) -> AsyncIterator[harness.Program]:
    async with harness.running(harness.Program(name, argv, folder, port=port)) as program:
        yield program
