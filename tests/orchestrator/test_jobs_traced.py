"""A run of a pipeline as spans, and as metrics."""

from pathlib import Path

from prometheus_client import REGISTRY

from tests.fakes.studio import studio_over
from tests.orchestrator.test_jobs import ASKED, PATH, STEPS
from tests.orchestrator.test_tracing import PARENT, TRACE, parent, told, traced


def steps_timed(outcome: str) -> float:
    labels = {"pipeline": "chat1to1", "step": "generate", "outcome": outcome}
    return REGISTRY.get_sample_value("soundstage_pipeline_step_seconds_count", labels) or 0.0


async def test_a_run_is_a_span_with_its_steps_below(durable_dsn: str, tmp_path: Path) -> None:
    tracing, exporter = traced()
    async with studio_over(durable_dsn, tmp_path, tracing, durable_jobs=True) as studio:
        await studio.chat_worker()
        image = await studio.image_worker()
        completed, failed = steps_timed("completed"), steps_timed("failed")
        answer = await studio.post(PATH, ASKED, headers={"traceparent": PARENT})
        *steps, run = exporter.get_finished_spans()
        assert [span.name for span in (*steps, run)] == [
            *(f"workflow_step {step}" for step in STEPS),
            "invoke_workflow chat1to1",
        ]
        assert run.context is not None
        assert {parent(step) for step in steps} == {run.context.span_id}
        assert (run.context.trace_id, parent(run)) == (TRACE, int(PARENT.split("-")[2], 16))
        drawn = next(step.context for step in steps if step.name.endswith("generate"))
        assert drawn is not None
        assert image.headers[0]["traceparent"] == f"00-{TRACE:032x}-{drawn.span_id:016x}-01"
        assert told(run) == {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.provider.name": "soundstage",
            "gen_ai.workflow.name": "chat1to1",
            "soundstage.job": answer.headers["x-job-id"],
            "soundstage.way": "wait",
        }
        assert (steps_timed("completed") - completed, steps_timed("failed") - failed) == (1, 0)
        exporter.clear()
        image.status = 500
        await studio.post(PATH, ASKED)
        _, step, run = exporter.get_finished_spans()
        assert [told(span)["error.type"] for span in (step, run)] == ["engine_failed"] * 2
        assert (steps_timed("completed") - completed, steps_timed("failed") - failed) == (1, 1)
