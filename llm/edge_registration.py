"""Tells Supabase's edge function register-chat-worker where this worker is: at the start and by heartbeat, for ever."""

import asyncio
import logging
import random
from datetime import UTC, datetime
from typing import Any

import aiohttp

from core import untrusted
from core.errors import SoundstageError
from llm.self_report import WORKER_TYPE
from llm.settings import ChatWorkerSettings

log = logging.getLogger(__name__)

FUNCTION = "/functions/v1/register-chat-worker"
HEARTBEAT_SECONDS = 60.0
FIRST_BACKOFF, MAX_BACKOFF = 1.0, 60.0
TIMEOUT = aiohttp.ClientTimeout(total=10)
MOST_BYTES = 64 << 10  # of the function's answer


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
    backoff, known = first_backoff, False
    async with untrusted.session(timeout=TIMEOUT, headers=headers) as session:
        while True:
            try:
                async with session.post(url, json=announcement(settings)) as response:
                    if response.status // 100 != 2:
                        said = (await untrusted.read_bytes(response, MOST_BYTES)).decode("utf-8", "replace")
                        raise ValueError(f"{response.status}: {said[:200]}")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, SoundstageError) as exc:
                if known or backoff == first_backoff:
                    log.warning("not registered with Supabase", extra={"url": url, "reason": exc})
                known, wait = False, backoff * random.uniform(0.8, 1.2)
                backoff = min(backoff * 2, max_backoff)
            else:
                if not known:
                    log.info("registered with Supabase", extra={"url": url})
                known, wait, backoff = True, heartbeat, first_backoff
            await asyncio.sleep(wait)
