"""What a person sees of `make up`: its lines on a pipe, and the main job done once against a fake studio."""

import base64
import io
import json
from pathlib import Path

import aiohttp
import openai
import pytest
from rich.console import Console

from compose import first_job
from compose.show import Show
from tests.fakes import fake_engine
from tests.fakes.serving import serving
from tests.fakes.upstream import Upstream, saying

PNG = b"\x89PNG\r\n\x1a\n a picture"


class Pipe:
    """A Show whose output can be read: not a terminal."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        self.show = Show(Console(file=self._out, highlight=False, soft_wrap=True, force_terminal=False))

    @property
    def text(self) -> str:
        return self._out.getvalue()


def test_on_a_pipe_each_part_is_a_line_at_its_start_and_its_end() -> None:
    pipe = Pipe()
    with pipe.show.doing("Postgres"), pipe.show.doing("[bold]engine[/]"):
        assert pipe.text == "… Postgres\n… [bold]engine[/]\n"
    lines = pipe.text.splitlines()[2:]
    assert [line.rsplit(" (", 1)[0] for line in lines] == ["✓ [bold]engine[/]", "✓ Postgres"]
    assert "\x1b" not in pipe.text


def test_what_fails_gets_no_tick() -> None:
    pipe = Pipe()
    with pytest.raises(RuntimeError), pipe.show.doing("Postgres"):
        raise RuntimeError
    assert pipe.text == "… Postgres\n"


def test_a_long_line_is_not_cut() -> None:
    pipe = Pipe()
    pipe.show.line("x" * 500)
    assert pipe.text == "x" * 500 + "\n"


async def test_the_answer_is_shown() -> None:
    pipe = Pipe()
    async with serving(fake_engine.create_app(["qwen_instruct"], "key")) as port:
        await first_job.chat(f"http://127.0.0.1:{port}/v1", "key", pipe.show)
        assert f"Studio: {first_job.QUESTION}\n" in pipe.text
        with pytest.raises(openai.AuthenticationError):
            await first_job.chat(f"http://127.0.0.1:{port}/v1", "wrong", pipe.show)


def answering(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (status, kind, len(body))
    return head + body


async def test_the_picture_is_kept_and_its_path_shown(upstream: Upstream, tmp_path: Path) -> None:
    answer = {"image_base64": base64.b64encode(PNG).decode(), "caption": "A red apple.", "run_id": "run_1"}
    upstream.script = saying(answering(json.dumps({**answer, "model": "tiny"}).encode()))
    pipe = Pipe()
    file = await first_job.picture(f"{upstream.url}/v1", "key", tmp_path / "pictures", pipe.show)
    assert (file, file.read_bytes()) == (tmp_path / "pictures" / "run_1.png", PNG)
    assert upstream.last.line == b"POST /v1/chat/1to1/imagegen HTTP/1.1"
    assert upstream.last.header(b"authorization") == b"Bearer key"
    assert "Studio: A red apple.\n" in pipe.text
    assert f"Picture by tiny: {file}\n" in pipe.text


FAILURES: dict[str, tuple[bytes, str]] = {
    "a refusal": (answering(b'{"error":{"message":"No worker."}}', b"503 Busy"), "No worker."),
    "not JSON": (answering(b"<html>", kind=b"text/html"), "mimetype"),
}


@pytest.mark.parametrize(("said", "shown"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_picture_that_fails_says_why(upstream: Upstream, tmp_path: Path, said: bytes, shown: str) -> None:
    upstream.script = saying(said)
    with pytest.raises(aiohttp.ClientError, match=shown):
        await first_job.picture(f"{upstream.url}/v1", "key", tmp_path, Pipe().show)
    assert list(tmp_path.iterdir()) == []
