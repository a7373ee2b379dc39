"""Shorts: a message becomes one vertical frame, clothed by its recipe, with a caption. expand → generate → caption."""

from orchestrator.pipelines import captions
from orchestrator.pipelines.base import Plain, Studio
from orchestrator.pipelines.flow import Flow
from orchestrator.pipelines.story import Answer, Message, Request, expand_route, tell
from orchestrator.runs.caller import Caller

__all__ = ["Answer", "Request"]

NAME, PATH, ROLE = "shorts", "/v1/chat/shorts/generate", "shorts"
EXPAND = "shorts.expand"
WARM = (EXPAND, captions.CAPTION)
SINGLE = (expand_route("/v1/chat/shorts/expand", Message, EXPAND, ROLE),)


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    return await tell(studio, flow, request, caller, recipe=EXPAND, role=ROLE)
