"""A chat model asked with somebody's own messages, judged, proved and recorded like every other request."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from core.json.canonical import messages_sha256
from core.usage import estimated, read_whole
from core.wire.workers import Ability
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.policy import texts
from orchestrator.policy.texts import no_forged_turn
from orchestrator.runs.call import WORKER_HEADER
from orchestrator.runs.caller import Caller
from orchestrator.runs.judge import Judge
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
        return await self._ask("chat", model, body, caller, digest=messages_sha256(list(messages)), noted=noted)

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
        return await self._ask("completions", model, {"prompt": prompt, **fields}, caller, digest=digest, noted=noted)

    async def _ask(
        self,
        ability: Ability,
        model: str,
        body: dict[str, Any],
        caller: Caller,
        *,
        digest: str | None,
        noted: Mapping[str, Any],
    ) -> tuple[bytes, Run]:
        encoded = msgspec.json.encode(body)
        async with self.judge.call(caller) as call:
            run = call.run
            run.model, run.messages_sha256 = model, digest
            run.sampling = {name: value for name, value in body.items() if name not in ("messages", "prompt")}
            run.sampling |= noted
            found = texts.of_body(body)
            if found.unread is not None:
                call.refuse_unchecked(found.unread)
            await call.judge(found.strings, "text", subject=found.subject)
            await call.limit(lambda: costs.most(ability, encoded, self.engines.context(model)))
            engine = self.engines.engine(model, ability, caller.request_id, **caller.place)
            async with engine as (client, name, worker):
                run.worker = worker
                answer = await (
                    client.chat.completions.with_raw_response.create(model=name, messages=[], extra_body=body)
                    if ability == "chat"
                    else client.completions.with_raw_response.create(model=name, prompt="", extra_body=body)
                )
                run.took(read_whole(answer.content) or estimated(encoded, answer.content))
            if ability == "chat":
                call.compare(answer.headers.get(WORKER_HEADER))
            run.answer_sha256 = hashlib.sha256(answer.content).hexdigest()
        return answer.content, run
