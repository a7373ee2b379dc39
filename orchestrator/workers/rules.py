"""How pools of workers behave, as the settings say."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.wire.workers import Kind, Strategy
from orchestrator.settings import OrchestratorSettings


@dataclass(frozen=True)
class Rules:
    """How pools behave. `queue_max` requests wait for one pool at most, each `queue_seconds` at most; `of_pools` is the
    routing of single ones, by role or by model."""

    routing: Mapping[Kind, Strategy] = field(default_factory=dict)
    of_pools: Mapping[str, Strategy] = field(default_factory=dict)
    queue_max: int = 512
    queue_seconds: float = 30.0
    role_queue_max: Mapping[str, int] = field(default_factory=dict)
    retry_after_cap: float = 30.0


def rules_of(settings: OrchestratorSettings) -> Rules:
    """How requests get places at workers."""
    of_roles = {
        "profile": settings.interface_profile_queue_max,
        "chat1to1": settings.interface_chat1to1_queue_max,
        "shorts": settings.interface_shorts_queue_max,
        "scenes": settings.interface_scenes_queue_max,
    }
    return Rules(
        routing={"chat": settings.routing_chat, "image": settings.routing_image, "selfie": settings.routing_selfie},
        of_pools=settings.routing_pools,
        queue_max=settings.queue_max,
        queue_seconds=settings.queue_seconds,
        role_queue_max={role: most for role, most in of_roles.items() if most is not None},
        retry_after_cap=settings.interface_retry_after_cap_ms / 1000,
    )
