"""Older callers' paths and the queue, wired."""

from collections.abc import Callable, Coroutine
from typing import Any

from core.part import Part
from orchestrator.access.part import Access
from orchestrator.legacy import chat_routes, enhance_routes
from orchestrator.legacy.conversations import Conversations
from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.cache import EnhancementCache
from orchestrator.legacy.enhance.enhancer import Enhancer
from orchestrator.legacy.enhance.service import EnhanceService
from orchestrator.legacy.enhance.tokens import Counters
from orchestrator.legacy.intake import intake_of
from orchestrator.legacy.older_chat import OlderChat
from orchestrator.legacy.queue_handler import JobHandler
from orchestrator.operate.part import Operate
from orchestrator.recipes.part import Recipes
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.part import Workers
from prompts.registry import Registry


def build(
    settings: OrchestratorSettings,
    operate: Operate,
    access: Access,
    workers: Workers,
    recipes: Recipes,
    registry: Registry,
) -> Part:
    kinds = job_types.read(settings.job_types)
    cache, counters = EnhancementCache(operate.pool, operate.seal), Counters(settings.wan_tokenizer)
    enhancer = Enhancer(recipes.messages, recipes.runner, registry, cache=cache, counters=counters)
    enhancement = EnhanceService(enhancer, kinds)
    conversations = Conversations(
        operate.pool,
        operate.seal,
        most_tokens=settings.conversation_tokens,
        hours=settings.conversation_hours,
        wait_seconds=settings.conversation_wait_seconds,
    )
    older = OlderChat(recipes.messages, recipes.runner, conversations, *job_types.conversations(kinds))
    pure = chat_routes.PureRoute(recipes.messages, workers.pool, settings.chat_max_tokens)
    watchers: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {"old conversations": conversations.purge}
    intake = intake_of(settings, operate.pool, operate.seal, keys=access.keys, handler=JobHandler(enhancement, older))
    if intake:
        watchers["queue intake"] = intake.run
    return Part(
        routers=[
            chat_routes.router(access.keys, access.quotas, pure, older),
            enhance_routes.router(access.keys, access.quotas, enhancement, pure_route=pure, workers=workers.pool),
        ],
        watchers=watchers,
    )
