"""POST /chat, /chat/unrestricted and /generate: the older form and the pure one, told apart by `messages`."""

import time
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from core import pure
from core.errors import Unprocessable
from core.parsing import parse_object
from orchestrator.access.dependencies import metered, needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.legacy.envelope import json_object, respond
from orchestrator.legacy.older_chat import CONVERSATION, ChatRequest, OlderChat
from orchestrator.recipes.messages import MessageRunner
from orchestrator.runs.caller import Caller, caller_of
from orchestrator.workers.registry import WorkerPool


class PureRoute:
    """The pure form on any of its three paths: judged, recorded and proved, and otherwise as a worker answers it."""

    def __init__(self, runner: MessageRunner, workers: WorkerPool, most_tokens: int) -> None:
        self._runner, self._workers, self._most = runner, workers, most_tokens

    async def answer(self, path: str, body: bytes, caller: Caller) -> BaseModel:
        """`sfw_mode` asks for tier 0. Raises Refused, NotFound, and what engines raise."""
        started = time.perf_counter()
        call = pure.read(path, body, self._most)
        request = call.request
        fields = {"max_tokens": call.max_tokens, "temperature": request.temperature, "top_p": request.top_p}
        noted = {"sfw_mode": request.sfw_mode}
        if request.sfw_mode:
            caller = replace(caller, asked_tier=0)
        if self._is_base(request.model):
            hashed = call.messages_sha256
            done = self._runner.complete(request.model, call.prompt(), fields, caller, digest=hashed, noted=noted)
        else:
            messages = msgspec.json.decode(call.messages)
            done = self._runner.chat(request.model, messages, fields, caller, noted=noted)
        answer, _ = await done
        return call.answer(answer, request.model, time.perf_counter() - started)

    def _is_base(self, name: str) -> bool:
        """qwen_base is asked without a chat template, and so is a model that only completes."""
        served = self._workers.models().get(name)
        return name == pure.BASE or (served is not None and "chat" not in served[0].abilities)


def router(keys: Keys, quotas: Quotas, pure_route: PureRoute, older: OlderChat) -> APIRouter:
    api = APIRouter(tags=["older chat"])
    chat_key = Annotated[Key, Depends(metered(keys, quotas, "chat"))]
    own_key = Annotated[Key, Depends(needs(keys, "chat"))]  # who deletes what is their own is let in at any limit

    async def ask(body: bytes, caller: Caller) -> BaseModel:
        given = json_object(body)
        if "messages" in given:
            return await pure_route.answer("/chat", body, caller)
        if "message" not in given:
            raise Unprocessable("Send `message`, or `messages` in the pure form.", param="message", code="missing")
        job = older.unrestricted if caller.route.endswith("unrestricted") else older.plain
        return await older.answer(parse_object(ChatRequest, given, Unprocessable), caller, job)

    @api.post("/chat")
    @api.post("/chat/unrestricted")
    async def chat(request: Request, key: chat_key) -> Response:
        """A message in a conversation that is remembered, or messages in the pure form."""
        return await respond(request, ask(await request.body(), caller_of(request.scope, key)))

    @api.post("/generate")
    async def generate(request: Request, key: chat_key) -> Response:
        """Messages in the pure form."""
        body = await request.body()
        return await respond(request, pure_route.answer("/generate", body, caller_of(request.scope, key)))

    @api.delete("/chat/{conversation_id}", status_code=204)
    async def forget(conversation_id: Annotated[str, Path(pattern=CONVERSATION)], key: own_key) -> None:
        """Delete a conversation of this key with all its turns."""
        await older.conversations.delete(key.id, conversation_id)

    return api
