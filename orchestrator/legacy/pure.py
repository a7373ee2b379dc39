"""The pure form of /chat, /enhance and /generate: judged, recorded and proved, and otherwise as a worker answers it."""

import time
from dataclasses import replace

import msgspec

from core.pure import PureCall
from core.wire.pure import BASE, PureAnswer
from orchestrator.recipes.messages import MessageRunner
from orchestrator.runs.caller import Caller
from orchestrator.workers.registry import WorkerPool


async def answer(runner: MessageRunner, workers: WorkerPool, call: PureCall, caller: Caller) -> PureAnswer:
    """`sfw_mode` asks for tier 0. Raises Refused, NotFound, and what engines raise."""
    started = time.perf_counter()
    asked = call.request
    fields = {"max_tokens": call.max_tokens, "temperature": asked.temperature, "top_p": asked.top_p}
    noted = {"sfw_mode": asked.sfw_mode}
    if asked.sfw_mode:
        caller = replace(caller, asked_tier=0)
    if _is_base(workers, asked.model):
        body, _ = await runner.complete(
            asked.model, call.prompt(), fields, caller, digest=call.messages_sha256, noted=noted
        )
    else:
        messages = msgspec.json.decode(call.messages)
        body, _ = await runner.chat(asked.model, messages, fields, caller, noted=noted)
    return call.answer(body, asked.model, time.perf_counter() - started)


def _is_base(workers: WorkerPool, name: str) -> bool:
    """qwen_base is asked without a chat template, and so is a model that only completes."""
    served = workers.models().get(name)
    return name == BASE or (served is not None and "chat" not in served[0].abilities)
