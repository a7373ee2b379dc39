"""Several engines in one worker: which model is where, and what they are doing."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from core.device.lease import DeviceLease, line_of, terms_of
from core.errors import InvalidRequest, NotFound
from core.wire.workers import ServedModel
from llm import control_tokens
from llm.catalogue import Model, Role
from llm.checkpoint import CheckpointError, pure_chat_template, resolve
from llm.device import GB
from llm.engine import Engine
from llm.residency import Bounds, Residency
from llm.settings import ChatWorkerSettings
from llm.weights import weights

log = logging.getLogger(__name__)

RETRY_CHECKPOINT_SECONDS = 30.0


class Supervisor:
    """Owns the engines of one worker. `on_change` is called whenever what can be served changes."""

    def __init__(
        self,
        models: Sequence[Model],
        settings: ChatWorkerSettings,
        session: Callable[[], aiohttp.ClientSession],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        line = line_of(settings, "chat")
        self.engines = [
            Engine(
                model,
                settings.vllm_python,
                settings.llm_engine_module,
                settings.data_dir.resolve(),
                session,
                start_seconds=settings.llm_start_seconds,
                sleep_level=settings.llm_sleep_level,
                on_change=on_change,
                until_gone=(line.lock,) if line else (),
            )
            for model in models
        ]
        self.residency = residency = Residency(self.engines, _bounds(settings), on_change)
        if line:
            terms = terms_of(settings, settings.llm_load_waiting)
            residency.lease = DeviceLease(line, terms, residency.take_device, residency.give_device)
        self._by_name = {name: engine for engine in self.engines for name in engine.model.names}

    async def run(self) -> None:
        """Keep every engine; until cancelled, then stop them all."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self.engines:
                tasks.create_task(self._keep(engine))
            if self.residency.lease:
                tasks.create_task(self.residency.lease.run())

    def find(self, name: str | None) -> Engine:
        """The engine that answers to `name`. Raises InvalidRequest without one, NotFound with a wrong one."""
        if name is None:
            raise InvalidRequest("`model` is required.", param="model", code="missing_model")
        engine = self._by_name.get(name)
        if engine is None:
            there = ", ".join(self._by_name)
            raise NotFound(
                f"The model `{name[:200]}` does not exist; this worker serves {there}.",
                param="model",
                code="model_not_found",
            )
        return engine

    def of_role(self, role: Role) -> Engine | None:
        """The engine that answers for a role: its own, else the one that answers to the role's alias."""
        alias = f"qwen_{role}"
        return next((e for e in self.engines if e.model.role == role or alias in e.model.names), None)

    def served(self) -> tuple[ServedModel, ...]:
        """The models that answer now, those that are loaded when they are asked for included."""
        return tuple(
            engine.model.served().model_copy(
                update={"control_tokens": engine.control_tokens, "max_model_len": engine.limits.max_model_len}
            )
            for engine in self.engines
            if self.residency.serves(engine)
        )

    async def _keep(self, engine: Engine) -> None:
        """Make the checkpoint local, however long that takes, then run the engine, if it fits."""
        while engine.checkpoint is None:
            try:
                await self._prepare(engine)
            except (CheckpointError, OSError, ValueError) as exc:
                log.error("checkpoint not usable", extra={"model": engine.model.id, "reason": exc})
                await asyncio.sleep(RETRY_CHECKPOINT_SECONDS)
        await self.residency.first_load(engine)
        await engine.run()

    async def _prepare(self, engine: Engine) -> None:
        token = self._settings.hf_token.get_secret_value() if self._settings.hf_token else None
        folder = await resolve(engine.model.source, self._settings.vllm_python, token)
        weights(folder)  # a file that is broken or missing is told here, and looked at again
        into: Path = self._settings.data_dir.resolve() / "engines" / engine.model.id / "chat_template.jinja"
        engine.chat_template = pure_chat_template(folder, into)
        template = engine.chat_template.read_text("utf-8") if engine.chat_template else None
        engine.control_tokens = control_tokens.of_checkpoint(folder, template)
        engine.checkpoint = folder


def _bounds(settings: ChatWorkerSettings) -> Bounds:
    return Bounds(
        wait_seconds=settings.llm_load_wait_seconds,
        waiting=settings.llm_load_waiting,
        drain_seconds=settings.llm_drain_seconds,
        start_seconds=settings.llm_start_seconds,
        budget=int(settings.llm_memory_gb * GB) if settings.llm_memory_gb else None,
        pinned=frozenset(settings.llm_pinned),
    )
