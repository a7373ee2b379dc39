"""How far background jobs lag behind is told as metrics."""

from prometheus_client import REGISTRY

from tests.fakes.studio import Studio
from tests.fakes.wait import eventually
from tests.orchestrator.test_jobs import ASKED, PATH


def lag(pipeline: str) -> tuple[float, float]:
    """How many wait, and the seconds of the oldest."""
    names = ("soundstage_jobs_waiting", "soundstage_jobs_oldest_seconds")
    waiting, oldest = (REGISTRY.get_sample_value(name, {"pipeline": pipeline}) or 0.0 for name in names)
    return waiting, oldest


async def test_jobs_that_wait_are_counted_with_the_time_of_the_oldest(durable_studio: Studio) -> None:
    ids = [(await durable_studio.post(PATH, {**ASKED, "background": True})).json()["id"] for _ in range(3)]
    await eventually(lambda: lag("chat1to1")[0] == 2, "one begun, for want of workers it waits; two behind it")
    before = lag("chat1to1")[1]
    assert before > 0
    await eventually(lambda: lag("chat1to1")[1] > before, "the oldest gets older")
    assert lag("shorts") == (0, 0)
    for job_id in reversed(ids):
        await durable_studio.post(f"/v1/jobs/{job_id}/cancel")
    await eventually(lambda: lag("chat1to1") == (0, 0), "nothing waits any more")
