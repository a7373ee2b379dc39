"""`python -m orchestrator jobs`: jobs from the command line, by asking an orchestrator that runs."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from orchestrator.operate.remote import add_where, local_key, no_answer, told
from orchestrator.settings import OrchestratorSettings

_COLUMNS = ("id", "pipeline", "state", "way", "attempts", "created_at", "ended_at")
LOST_SECONDS = 1.0  # between two tries to follow again
TRIES = 60
GOOD = frozenset(("completed",))


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`jobs watch|list|cancel` and what each takes."""
    jobs = commands.add_parser("jobs", help="follow, list and cancel runs of pipelines", description=__doc__)
    add_where(jobs)
    verbs = jobs.add_subparsers(dest="verb", required=True)
    watching = verbs.add_parser("watch", help="follow a job to its end; 1 where it does not complete")
    watching.add_argument("id", help="job_…, as the answer's X-Job-Id says")
    listing = verbs.add_parser("list", help="the key's own jobs, the newest first")
    states = ("queued", "running", "completed", "failed", "cancelled")
    listing.add_argument("--state", choices=states, help="those alone that are so")
    listing.add_argument("--pipeline", help="those of this pipeline alone")
    listing.add_argument("--limit", type=int, default=20, help="how many at most")
    cancel = verbs.add_parser("cancel", help="end a job before its time")
    cancel.add_argument("id", help="job_…")
    for verb in (watching, listing, cancel):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace, settings: OrchestratorSettings) -> int:
    """The exit status: 0; 1 where the orchestrator refuses or does not answer, or the watched job did not complete."""
    if given.verb != "watch":
        return told(given, settings, "/v1/jobs", _ask, _COLUMNS)
    url = (given.url or f"http://127.0.0.1:{settings.port}").rstrip("/")
    try:
        headers = {"authorization": f"Bearer {given.key or local_key(settings)}", "accept": "text/event-stream"}
        with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            return _watch(client, given.id, as_json=given.json)
    except (httpx2.HTTPError, OSError) as exc:
        sys.stderr.write(no_answer(url, exc) + "\n")
        return 1


def _ask(client: httpx2.Client, url: str, given: argparse.Namespace) -> httpx2.Response:
    if given.verb == "cancel":
        return client.post(f"{url}/{given.id}/cancel")
    filters = {"state": given.state, "pipeline": given.pipeline}
    return client.get(url, params={"limit": given.limit, **{name: value for name, value in filters.items() if value}})


def _watch(client: httpx2.Client, job_id: str, *, as_json: bool) -> int:
    """Show a job's events as they come; where the connection breaks, go on behind the last one that was seen."""
    after, began, lost = 0, time.monotonic(), 0
    while lost < TRIES:
        try:
            with client.stream("GET", f"/v1/jobs/{job_id}/events", headers={"last-event-id": str(after)}) as answer:
                if answer.is_error:
                    answer.read()
                    if answer.status_code < 500:
                        sys.stderr.write(answer.json()["error"]["message"] + "\n")
                        return 1
                for event in _events(answer.iter_lines()) if answer.is_success else ():
                    after, lost = event["sequence_number"], 0
                    shown = json.dumps(event) if as_json else line(event, time.monotonic() - began)
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
    return 0 if client.get(f"/v1/jobs/{job_id}").json()["state"] in GOOD else 1


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
