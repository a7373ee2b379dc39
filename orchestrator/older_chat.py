"""The older /chat: one message, and a conversation that the studio remembers."""

import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import NotFound, Unavailable, Upstream
from core.pure import text_of
from orchestrator.conversations import Conversations, Turn, fitting
from orchestrator.direct import Direct
from orchestrator.oversight import Caller
from orchestrator.policy import ADULT_TIER
from orchestrator.recipes import RecipeRunner
from orchestrator.runs import Run
from prompts.render import Message

log = logging.getLogger(__name__)

MODEL = "qwen_instruct"
RECIPE = "chat_conversation"
SAMPLING = {"max_tokens": 512, "temperature": 0.7, "top_p": 0.9}
ASKS = re.compile(r"\b(?:unrestricted|adult|nsfw)\s+mode\b", re.IGNORECASE)
BYTES_A_TOKEN = 3
"""Where no worker counts tokens: a few more than most texts have."""


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: str = Field(min_length=1, max_length=16_000)
    system_prompt: str | None = Field(None, min_length=1, max_length=16_000)
    conversation_id: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[\w.:@+-]+$")


class ChatAnswer(BaseModel):
    """`system_prompt_used`: `caller`, or recipe@version. `unrestricted_mode`: what was in force, not what was asked."""

    success: Literal[True] = True
    response: str
    generation_time: float
    conversation_id: str
    context_type: Literal["new", "continued"]
    message_id: str
    system_prompt_used: str
    unrestricted_mode: bool


@dataclass(frozen=True)
class OlderChat:
    """One for each process."""

    direct: Direct
    recipes: RecipeRunner
    conversations: Conversations

    async def answer(self, asked: ChatRequest, caller: Caller, *, unrestricted: bool) -> ChatAnswer:
        """Raises Refused, Overloaded (the conversation is busy), and what engines raise."""
        started = time.perf_counter()
        wants = unrestricted or bool(ASKS.search(asked.message))
        most = ADULT_TIER if wants else ADULT_TIER - 1
        caller = replace(caller, asked_tier=most if caller.asked_tier is None else min(most, caller.asked_tier))
        name = asked.conversation_id or f"conv_{os.urandom(12).hex()}"
        async with self.conversations.hold(caller.key.id, name) as held:
            question = await self._turn("user", asked.message, caller)
            system = await self._tokens(asked.system_prompt, caller) if asked.system_prompt else 0
            room = self.conversations.most_tokens - question.tokens - system
            before = fitting(await held.turns(), room)
            text, run = await self._ask(asked, [turn.message() for turn in (*before, question)], caller)
            message_id = f"msg_{os.urandom(12).hex()}"
            await held.add(question, await self._turn("assistant", text, caller), message_id)
        return ChatAnswer(
            response=text,
            generation_time=round(time.perf_counter() - started, 4),
            conversation_id=name,
            context_type="continued" if before else "new",
            message_id=message_id,
            system_prompt_used=f"{run.recipe}@{run.version}" if run.recipe else "caller",
            unrestricted_mode=wants and run.tier == ADULT_TIER,
        )

    async def _ask(self, asked: ChatRequest, turns: Sequence[Message], caller: Caller) -> tuple[str, Run]:
        """By the caller's own system message, else by the recipe's."""
        if asked.system_prompt is None:
            return await self.recipes.text(RECIPE, {}, caller, turns)
        messages = [{"role": "system", "content": asked.system_prompt}, *turns]
        body, run = await self.direct.chat(MODEL, messages, SAMPLING, caller)
        return text_of(body), run

    async def _turn(self, role: str, content: str, caller: Caller) -> Turn:
        return Turn(role, content, await self._tokens(content, caller))

    async def _tokens(self, content: str, caller: Caller) -> int:
        """By the model's own tokenizer, in its chat template; by bytes where no worker counts."""
        message = [{"role": "user", "content": content}]
        try:
            return len(await self.direct.engines.tokens(MODEL, message, {}, caller.request_id))
        except (NotFound, Unavailable, Upstream) as exc:
            log.warning("tokens not counted; taken from bytes", extra={"why": exc.message})
            return -(-len(content.encode("utf-8", "replace")) // BYTES_A_TOKEN)
