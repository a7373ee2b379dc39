"""The way of a new user, by the documents alone: `python -m bench.walk FOLDER`.

FOLDER is a fresh clone. There: `make up`, every command that the pages show, Ctrl-C, and a second `make up`, each timed
and looked at. Commands that cannot be run here are listed with the reason. Written: bench/results/walk.json and
walk.md. Ends with 1 where a command did not do what its page says, or is neither run nor listed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.relay.processes import free_port
from bench.walk.commands import FOUND, ROOT, shown
from bench.walk.steps import NOT_RUN, STEPS, Step
from tests.vision.photos import ASTRONAUT, photo_path

RESULT = ROOT / "bench" / "results" / "walk.json"
READY, START_SECONDS, STEP_SECONDS = "Soundstage is ready", 3600.0, 600.0
INTRODUCTION = """\
# Every command of the documents, and whether it was run

`python -m bench.walk CLONE` takes a fresh clone and an empty home directory, and types what the pages show, in the
order of a new user's way. This page is what it found. {machine}

| | seconds |
|---|--:|
"""


@dataclass(frozen=True)
class Ran:
    """What became of a command; `text` is as a page shows it, or empty for what is done between commands."""

    text: str
    seconds: float
    right: bool
    note: str
    why: str = ""


class Studio:
    """`make up` in the clone, with ports of its own."""

    def __init__(self, clone: Path, env: Mapping[str, str]) -> None:
        self._log = (clone / "up.log").open("ab")
        self._began = time.monotonic()
        self._path = Path(self._log.name)
        self._from = self._path.stat().st_size
        self._process = subprocess.Popen(
            ("make", "up"), cwd=clone, env=dict(env), stdout=self._log, stderr=self._log, start_new_session=True
        )

    def ready(self) -> float:
        """Seconds from the command to its last line."""
        while READY not in self._said():
            if self._process.poll() is not None or time.monotonic() - self._began > START_SECONDS:
                raise RuntimeError(f"make up:\n{self._said()[-3000:]}")
            time.sleep(0.1)
        return time.monotonic() - self._began

    def stop(self) -> float:
        """Ctrl-C; seconds until everything has ended."""
        began = time.monotonic()
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(120)
        return time.monotonic() - began

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(120)

    def _said(self) -> str:
        with self._path.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._from)
            return file.read()


@contextlib.contextmanager
def started(clone: Path, env: Mapping[str, str]) -> Iterator[Studio]:
    studio = Studio(clone, env)
    try:
        yield studio
    finally:
        studio.kill()


def walked(clone: Path, env: Mapping[str, str]) -> tuple[dict[str, float], list[Ran]]:
    times: dict[str, float] = {}
    with started(clone, env) as studio:
        times["`make up` in a fresh clone: environments, packages, the small models, first answer and picture"] = (
            studio.ready()
        )
        ran = [_run(clone, env, step) for step in STEPS]
        times["Ctrl-C"] = studio.stop()
    with started(clone, env) as studio:
        times["`make up` again"] = studio.ready()
        ran.append(_run(clone, env, STEPS[1]))
        times["Ctrl-C again"] = studio.stop()
    return times, ran


def _run(clone: Path, env: Mapping[str, str], step: Step) -> Ran:
    text = next((one.text for one in shown() if step.begins and _plain(one.text).startswith(step.begins)), "")
    if step.begins and not text:
        return Ran("", 0.0, False, step.note, f"no page shows {step.begins}")
    command = (step.run or _plain(text)).replace("127.0.0.1:8000", f"127.0.0.1:{env['PORT']}")
    began = time.monotonic()
    try:
        done = subprocess.run(
            ("bash", "-c", command), cwd=clone, env=dict(env), capture_output=True, text=True, timeout=STEP_SECONDS
        )
        said, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired:
        said, code = "it did not end", -1
    right = code == step.ends and step.says.lower() in said.lower()
    print("ok  " if right else "FAIL", (text or step.run).splitlines()[0][:100], flush=True)
    why = "" if right else f"status {code}: {said[-1500:]}"
    return Ran(text, round(time.monotonic() - began, 2), right, step.note, why)


def _plain(text: str) -> str:
    """As it can be run in the clone: pages say `python -m` for short within sentences."""
    plain = text.removeprefix("$ ")
    return f".venv/bin/{plain}" if plain.startswith("python -m") else plain


def reasons(ran: list[Ran]) -> tuple[dict[str, str], list[str]]:
    """Why the others were not run, and those for which nothing was said."""
    texts = {_plain(one.text) for one in shown()} - {_plain(one.text) for one in ran} - {"make up"}
    left = {text for text in texts if not any(step.begins and text.startswith(step.begins) for step in STEPS)}
    why = {text: reason for text in sorted(left) for begins, reason in NOT_RUN.items() if text.startswith(begins)}
    return why, sorted(left - set(why))


def page(kept: Mapping[str, object]) -> str:
    """bench/results/walk.md."""
    found: dict[str, object] = dict(kept)
    times, ran, why = found["times"], found["ran"], found["not_run"]
    assert isinstance(times, dict)
    assert isinstance(ran, list)
    assert isinstance(why, dict)
    lines = [INTRODUCTION.format(machine=found["machine"])]
    lines += [f"| {what} | {seconds:.1f} |\n" for what, seconds in times.items()]
    lines += ["\n## Run\n\n| command | seconds | what was put in the place of names |\n|---|--:|---|\n"]
    lines += [f"| {_cell(one['text'])} | {one['seconds']:.2f} | {one['note']} |\n" for one in ran if one["text"]]
    lines += ["\n## Not run here\n\n| command | why |\n|---|---|\n"]
    lines += [f"| {_cell(text)} | {reason} |\n" for text, reason in why.items()]
    return "".join(lines)


def _cell(text: str) -> str:
    first, *more = text.splitlines()
    return "`" + first.removesuffix("\\").strip().replace("|", "\\|") + ("` …" if more else "`")


def main() -> int:
    clone = Path(sys.argv[1]).resolve()
    ports = {name: str(free_port()) for name in ("PORT", "CHAT_PORT", "IMAGE_PORT", "SELFIE_PORT")}
    ports |= {"OTHER_PORT": str(free_port()), "POD_PORT": str(free_port())}
    shutil.copy(photo_path(ASTRONAUT), clone / "selfie.jpg")  # a face that everyone may show
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        own = ("VIRTUAL_ENV", "DATABASE_URL", "DATA_DIR", "LLM_URL", "IMAGE_MODEL", "HOST")
        env = {name: value for name, value in os.environ.items() if name not in own} | ports | {"HOME": home}
        load = os.getloadavg()[0]
        times, ran = walked(clone, env)
    why, unsaid = reasons(ran)
    machine = f"{os.cpu_count()} cores; load {load:.0f} at its begin, {os.getloadavg()[0]:.0f} at its end."
    kept = {"machine": machine, "times": times, "ran": [asdict(one) for one in ran], "not_run": why, "unsaid": unsaid}
    RESULT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    wrong = [one for one in ran if not one.right]
    if not wrong and not unsaid:
        FOUND.write_text(page(kept), "utf-8")
    for one in wrong:
        print("WRONG", one.text, one.why, sep="\n")
    print("neither run nor listed:", unsaid)
    return 1 if wrong or unsaid else 0


if __name__ == "__main__":
    sys.exit(main())
