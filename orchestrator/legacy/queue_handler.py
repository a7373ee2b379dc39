"""What a queued job asks for: its job type says which endpoint's work is done."""

from dataclasses import dataclass
from typing import Any

from core.errors import Unprocessable
from core.parsing import parse_object
from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.service import EnhanceService
from orchestrator.legacy.older_chat import ChatRequest, OlderChat
from orchestrator.legacy.queue_job import Job
from orchestrator.runs.caller import Caller


@dataclass(frozen=True)
class JobHandler:
    """`{"prompt": …}` is enhanced as by POST /enhance; `{"message": …}` is answered as by POST /chat, where the job
    type is a conversation's."""

    enhancement: EnhanceService
    chat: OlderChat

    async def run(self, job: Job, caller: Caller) -> dict[str, Any]:
        """The answer that the endpoint would give. Raises as it does."""
        if "message" in job.payload:
            kind = job_types.find(self.enhancement.kinds, job.job_type)
            if not kind.conversation:
                raise Unprocessable(
                    f"job_type: {kind.name} takes a prompt, not a message.", param="job_type", code="no_conversation"
                )
            asked = parse_object(ChatRequest, job.payload, Unprocessable)
            return (await self.chat.answer(asked, caller, kind, once=job.id)).model_dump()
        body = {**job.payload, "job_type": job.job_type}
        return (await self.enhancement.enhance(body, caller)).model_dump(exclude_none=True)
