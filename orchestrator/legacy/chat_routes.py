"""POST /chat, /chat/unrestricted and /generate: the older form and the pure one, told apart by `messages`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from core import pure
from core.errors import Unprocessable
from orchestrator.access.dependencies import metered, needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.legacy import pure as pure_form
from orchestrator.legacy.envelope import answered, decoded, parsed
from orchestrator.legacy.older_chat import CONVERSATION, ChatRequest, OlderChat
from orchestrator.recipes.messages import MessageRunner
from orchestrator.runs.caller import Caller, caller_of
from orchestrator.workers.registry import WorkerPool


class PureRoute:
    """The pure form on any of its three paths."""

    def __init__(self, runner: MessageRunner, workers: WorkerPool, most_tokens: int) -> None:
        self._runner, self._workers, self._most = runner, workers, most_tokens

    async def answer(self, path: str, body: bytes, caller: Caller) -> BaseModel:
        return await pure_form.answer(self._runner, self._workers, pure.read(path, body, self._most), caller)


def router(keys: Keys, quotas: Quotas, pure_route: PureRoute, older: OlderChat) -> APIRouter:
    api = APIRouter(tags=["older chat"])
    chat_key = Annotated[Key, Depends(metered(keys, quotas, "chat"))]
    own_key = Annotated[Key, Depends(needs(keys, "chat"))]  # who deletes what is their own is let in at any limit

    async def ask(body: bytes, caller: Caller) -> BaseModel:
        given = decoded(body)
        if "messages" in given:
            return await pure_route.answer("/chat", body, caller)
        if "message" not in given:
            raise Unprocessable("Send `message`, or `messages` in the pure form.", param="message", code="missing")
        job = older.unrestricted if caller.route.endswith("unrestricted") else older.plain
        return await older.answer(parsed(ChatRequest, given), caller, job)

    @api.post("/chat")
    @api.post("/chat/unrestricted")
    async def chat(request: Request, key: chat_key) -> Response:
        """A message in a conversation that is remembered, or messages in the pure form."""
        return await answered(request, ask(await request.body(), caller_of(request.scope, key)))

    @api.post("/generate")
    async def generate(request: Request, key: chat_key) -> Response:
        """Messages in the pure form."""
        body = await request.body()
        return await answered(request, pure_route.answer("/generate", body, caller_of(request.scope, key)))

    @api.delete("/chat/{conversation_id}", status_code=204)
    async def forget(conversation_id: Annotated[str, Path(pattern=CONVERSATION)], key: own_key) -> None:
        """Delete a conversation of this key with all its turns."""
        await older.conversations.delete(key.id, conversation_id)

    return api
