"""`python -m orchestrator jobs`: jobs from the command line, by asking an orchestrator that runs."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from core.commands import Commands
from orchestrator.operate.remote import Verb, add_command

PATH = "/v1/jobs"
_COLUMNS = ("id", "pipeline", "state", "way", "attempts", "created_at", "ended_at")
_STATES = ("queued", "running", "completed", "failed", "cancelled")
_FILTERS: dict[str, dict[str, Any]] = {
    "--state": {"choices": _STATES, "help": "those alone that are so"},
    "--pipeline": {"help": "those of this pipeline alone"},
    "--limit": {"type": int, "default": 20, "help": "how many at most"},
}
LOST_SECONDS = 1.0  # between two tries to follow again
TRIES = 60
GOOD = frozenset(("completed",))


def add_commands(commands: Commands) -> None:
    watched = {"id": {"help": "job_…, as the answer's X-Job-Id says"}}
    verbs = (
        Verb("watch", "follow a job to its end; 1 where it does not complete", _watch, watched),
        Verb("list", "the key's own jobs, the newest first", _list, _FILTERS),
        Verb(
            "cancel",
            "end a job before its time",
            lambda client, given: client.post(f"{PATH}/{given.id}/cancel"),
            {"id": {"help": "job_…"}},
        ),
    )
    add_command(commands, "jobs", "follow, list and cancel runs of pipelines", verbs=verbs, columns=_COLUMNS)


def _list(client: httpx2.Client, given: argparse.Namespace) -> httpx2.Response:
    filters = {"state": given.state, "pipeline": given.pipeline}
    return client.get(PATH, params={"limit": given.limit, **{name: value for name, value in filters.items() if value}})


def _watch(client: httpx2.Client, given: argparse.Namespace) -> int:
    """Show a job's events as they come; where the connection breaks, go on behind the last one that was seen."""
    job_id, after, began, lost = given.id, 0, time.monotonic(), 0
    while lost < TRIES:
        try:
            headers = {"accept": "text/event-stream", "last-event-id": str(after)}
            with client.stream("GET", f"{PATH}/{job_id}/events", headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                    if answer.status_code < 500:
                        sys.stderr.write(answer.json()["error"]["message"] + "\n")
                        return 1
                for event in _events(answer.iter_lines()) if answer.is_success else ():
                    after, lost = event["sequence_number"], 0
                    shown = json.dumps(event) if given.json else line(event, time.monotonic() - began)
                    sys.stdout.write(shown + "\n")
                    sys.stdout.flush()
                    if event["type"] in ("pipeline.completed", "error"):
                        return 0 if event["type"] == "pipeline.completed" else 1
                if answer.is_success and after:
                    return _ended(client, job_id)
        except httpx2.TransportError:
            lost += 1
        lost += 1
        time.sleep(LOST_SECONDS)
    sys.stderr.write("The orchestrator does not come back.\n")
    return 1


def _ended(client: httpx2.Client, job_id: str) -> int:
    """Everything was seen before the connection broke."""
    return 0 if client.get(f"{PATH}/{job_id}").json()["state"] in GOOD else 1


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for text in lines:
        if text.startswith("data: "):
            yield json.loads(text.removeprefix("data: "))


def line(event: dict[str, Any], seconds: float) -> str:
    """One event for a person: when, what, and no picture."""
    kind, step = str(event["type"]).rpartition(".")[2], event.get("step", "")
    mark = {"started": "…", "completed": "✓", "partial_image": "◐", "error": "✗"}.get(kind, "·")
    what = step or {"completed": "done", "partial_image": f"preview {event.get('partial_image_index', 0) + 1}"}.get(
        kind, event.get("error", {}).get("message", kind)
    )
    return f"{seconds:7.2f} s  {mark} {what}"
