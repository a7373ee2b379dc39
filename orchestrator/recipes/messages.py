"""A chat model asked with somebody's own messages, judged, proved and recorded like every other request."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from core.errors import SoundstageError
from core.json.canonical import messages_sha256
from core.usage import estimated, read_whole
from core.wire.workers import Ability
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.policy import texts
from orchestrator.policy.texts import no_forged_turn
from orchestrator.runs.caller import Caller
from orchestrator.runs.judge import WORKER_HEADER, Judge
from orchestrator.runs.record import Run

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class MessageRunner:
    """The means; one for each process."""

    engines: Engines
    judge: Judge

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any],
        caller: Caller,
        *,
        noted: Mapping[str, Any] = NOTHING,
    ) -> tuple[bytes, Run]:
        """The engine's answer to these messages, as it came, and the run. `noted` is recorded, and not sent."""
        no_forged_turn(self.engines.control_tokens(model).find(list(messages)), "messages")
        body = {"messages": list(messages), **fields}
        digest = messages_sha256(list(messages))
        return await self._ask("chat", "/chat/completions", model, body, digest, caller, noted)

    async def complete(
        self,
        model: str,
        prompt: str,
        fields: Mapping[str, Any],
        caller: Caller,
        *,
        digest: str | None = None,
        noted: Mapping[str, Any] = NOTHING,
    ) -> tuple[bytes, Run]:
        """A base model's answer to a text; no chat template. `digest` is what the run keeps of the messages."""
        body = {"prompt": prompt, **fields}
        return await self._ask("completions", "/completions", model, body, digest, caller, noted)

    async def _ask(
        self,
        ability: Ability,
        path: str,
        model: str,
        body: dict[str, Any],
        digest: str | None,
        caller: Caller,
        noted: Mapping[str, Any],
    ) -> tuple[bytes, Run]:
        run = self.judge.begin(caller)
        run.model, run.messages_sha256 = model, digest
        found = texts.of_body(body)
        if found.unread is not None:
            self.judge.refuse_unchecked(run, found.unread)
        await self.judge.admit(run, caller, found.strings, "text", subject=found.subject)
        run.sampling = {name: value for name, value in body.items() if name not in ("messages", "prompt")} | dict(noted)
        status = 502
        try:
            limits = self.judge.within_limits(
                run, caller, lambda: costs.most(ability, msgspec.json.encode(body), self.engines.context(model))
            )
            engine = self.engines.engine(model, ability, caller.request_id, **caller.place)
            async with limits, engine as (client, name, worker):
                run.worker = worker
                sent = {"model": name, **body}
                answer = await client.post(path, body=sent, cast_to=httpx2.Response)
                run.took(read_whole(answer.content) or estimated(msgspec.json.encode(body), answer.content))
            if ability == "chat":
                self.judge.compare(run, answer.headers.get(WORKER_HEADER))
            run.answer_sha256, status = hashlib.sha256(answer.content).hexdigest(), 200
        except SoundstageError as exc:
            status = exc.status
            raise
        finally:
            self.judge.settle(run, status)
        return answer.content, run
