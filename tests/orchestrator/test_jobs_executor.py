"""What a process knows of the runs that are at work in it."""

from typing import Any, cast

from orchestrator.access.keys import Key
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.values import Claim
from orchestrator.runs.caller import Caller
from tests.fakes.wait import soon


class Followers:
    def over(self, job_id: str) -> None:
        pass


async def test_a_run_that_is_cancelled_before_it_began_is_at_work_no_more() -> None:
    nothing = cast(Any, None)
    executor = Executor(
        store=nothing,
        queue=nothing,
        writer=nothing,
        followers=cast(Any, Followers()),
        studio=nothing,
        pipelines={},
        tracing=None,
    )
    caller = Caller(Key("k", "default", frozenset({"pipelines"}), 1, None), "r", "/v1/imagegen", "s")
    executor._start(Claim("job_1", "imagegen", "background", 1, {}, caller, False, {}))
    executor.cancel_here("job_1")
    executor.rest(600)
    await soon(executor.idle())
    assert executor.here() == []
