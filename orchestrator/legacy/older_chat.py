"""The older /chat: one message, and a conversation that the studio remembers."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import NotFound, Unavailable, Unprocessable, Upstream
from core.pure import text_of
from core.wire.text import Text
from orchestrator.legacy.conversations import Conversation, Conversations, Turn, fitting
from orchestrator.legacy.enhance.enhancer import with_tier_of
from orchestrator.legacy.enhance.job_types import JobType
from orchestrator.policy.decide import ADULT_TIER
from orchestrator.recipes.messages import MessageRunner
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run
from prompts.render import Message

log = logging.getLogger(__name__)

SAMPLING = {"temperature": 0.7, "top_p": 0.9}
CONVERSATION = r"^[\w.:@+-]+$"
ASKS = re.compile(r"\b(?:unrestricted|adult|nsfw)\s+mode\b", re.IGNORECASE)
BYTES_A_TOKEN = 3
"""Where no worker counts tokens: a few more than most texts have."""


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: Text = Field(min_length=1)
    system_prompt: Text | None = Field(None, min_length=1, max_length=16_000)
    conversation_id: str | None = Field(None, min_length=1, max_length=200, pattern=CONVERSATION)


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
    """One for each process. The job types say which recipe and model answer, within what limits."""

    runner: MessageRunner
    recipes: RecipeRunner
    conversations: Conversations
    plain: JobType
    unrestricted: JobType

    async def answer(self, asked: ChatRequest, caller: Caller, job: JobType, *, once: str | None = None) -> ChatAnswer:
        """The next turn of a conversation, as `job` says; asked again with the same `once`, the turn that there is.
        Raises Unprocessable, Refused, Overloaded (the conversation is busy), and what engines raise."""
        started = time.perf_counter()
        if len(asked.message) > job.max_prompt:
            raise Unprocessable(
                f"message: at most {job.max_prompt} characters.", param="message", code="string_too_long"
            )
        if job == self.plain and ASKS.search(asked.message):
            job = self.unrestricted
        caller = with_tier_of(job, caller)
        number = hashlib.sha256(once.encode()).hexdigest()[:24] if once else os.urandom(12).hex()
        name, message_id = asked.conversation_id or f"conv_{number}", f"msg_{number}"
        async with self.conversations.hold(caller.key.id, name) as conversation:
            found = await conversation.answer(message_id) if once else None
            text, told = found or await self._next(asked, caller, job, conversation, message_id)
        return ChatAnswer(
            response=text,
            generation_time=round(time.perf_counter() - started, 4),
            conversation_id=name,
            message_id=message_id,
            **told,
        )

    async def _next(
        self, asked: ChatRequest, caller: Caller, job: JobType, conversation: Conversation, message_id: str
    ) -> tuple[str, dict[str, Any]]:
        """A new turn, kept: its text, and what is said of it."""
        question = await self._turn("user", asked.message, caller, job)
        system = await self._tokens(asked.system_prompt, caller, job) if asked.system_prompt else 0
        room = self.conversations.most_tokens - question.tokens - system
        before = fitting(await conversation.turns(), room)
        text, run = await self._ask(asked, [turn.message() for turn in (*before, question)], caller, job)
        text = text.replace("\x00", "")  # Postgres does not keep it
        told = {
            "context_type": "continued" if before else "new",
            "system_prompt_used": f"{run.recipe}@{run.version}" if run.recipe else "caller",
            "unrestricted_mode": job.tier == ADULT_TIER and run.tier == ADULT_TIER,
        }
        await conversation.add(question, await self._turn("assistant", text, caller, job), message_id, told)
        return text, told

    async def _ask(self, asked: ChatRequest, turns: Sequence[Message], caller: Caller, job: JobType) -> tuple[str, Run]:
        """By the caller's own system message, else by the recipe's."""
        if asked.system_prompt is None:
            return await self.recipes.text(job.recipe, {}, caller, turns)
        messages = [{"role": "system", "content": asked.system_prompt}, *turns]
        body, run = await self.runner.chat(job.model, messages, {"max_tokens": job.max_tokens, **SAMPLING}, caller)
        return text_of(body), run

    async def _turn(self, role: str, content: str, caller: Caller, job: JobType) -> Turn:
        return Turn(role, content, await self._tokens(content, caller, job))

    async def _tokens(self, content: str, caller: Caller, job: JobType) -> int:
        """By the model's own tokenizer, in its chat template; by bytes where no worker counts."""
        message = [{"role": "user", "content": content}]
        try:
            return len(await self.runner.engines.tokens(job.model, message, {}, caller.request_id))
        except (NotFound, Unavailable, Upstream) as exc:
            log.warning("tokens not counted; taken from bytes", extra={"why": exc.message})
            return -(-len(content.encode("utf-8", "replace")) // BYTES_A_TOKEN)
