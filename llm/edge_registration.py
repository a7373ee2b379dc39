"""Tells Supabase's edge function register-chat-worker where this worker is: at the start and by heartbeat, for ever."""

import json
from datetime import UTC, datetime
from typing import Any

import aiohttp

from core import registration, untrusted
from llm.self_report import WORKER_TYPE
from llm.settings import ChatWorkerSettings

FUNCTION = "/functions/v1/register-chat-worker"
HEARTBEAT_SECONDS = 60.0
FIRST_BACKOFF, MAX_BACKOFF = 1.0, 60.0
TIMEOUT = aiohttp.ClientTimeout(total=10)


def announcement(settings: ChatWorkerSettings) -> dict[str, Any]:
    """The body. The address is worked out anew each time; on a pod it is the proxy's, since PUBLIC_URL may be an
    address for an orchestrator beside it."""
    return {
        "worker_url": settings.proxied_at() or settings.reached_at(),
        "auto_registered": True,
        "registration_method": "pure_inference_chat_worker",
        "worker_type": WORKER_TYPE,
        "capabilities": {"hardcoded_prompts": False, "prompt_modification": False, "pure_inference": True},
        "timestamp": datetime.now(UTC).isoformat(),
    }


async def keep(
    settings: ChatWorkerSettings,
    *,
    heartbeat: float = HEARTBEAT_SECONDS,
    first_backoff: float = FIRST_BACKOFF,
    max_backoff: float = MAX_BACKOFF,
) -> None:
    """Until cancelled. A failure is tried again with a backoff that doubles up to `max_backoff` seconds."""
    url = (settings.supabase_url or "").rstrip("/") + FUNCTION
    key = settings.supabase_key or ""
    headers = {"authorization": f"Bearer {key}", "apikey": key}
    async with untrusted.session(timeout=TIMEOUT, headers=headers) as session:

        async def send() -> float:
            await registration.post(session, url, json.dumps(announcement(settings)))
            return heartbeat

        await registration.Heartbeat(url, send, first_backoff, max_backoff).run()
