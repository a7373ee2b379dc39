"""A model's source becomes a folder here; its chat template is copied without a system message of its own."""

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from llm.chat_template import ChatTemplateError
from llm.checkpoint import CheckpointError, pure_chat_template, resolve
from tests.fakes.wait import eventually, soon

PYTHON = Path(sys.executable)
TURNS = "{%- for message in messages %}{{- '<' + message.role + '>' + message.content }}{%- endfor %}"
CHATTY = "{%- if messages[0].role != 'system' %}{{- '<system>Words' }}{%- endif %}" + TURNS


def tool(folder: Path, script: str) -> Path:
    """A program in the place of the engine environment's Python."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


async def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert await resolve(str(tmp_path), PYTHON) == tmp_path


async def test_a_path_that_is_missing_is_not_searched_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        await resolve(str(tmp_path / "none"), tmp_path / "no-python")


async def test_a_repository_is_downloaded(tmp_path: Path) -> None:
    program = tool(tmp_path, f'cd {tmp_path}; echo "$@" > args; echo "$HF_TOKEN" > token; echo Downloading; pwd')
    assert await resolve("org/model", program, "hf_secret") == tmp_path
    assert "download org/model" in (tmp_path / "args").read_text()
    assert "hf_secret" not in (tmp_path / "args").read_text()
    assert (tmp_path / "token").read_text() == "hf_secret\n"


FAILURES = {
    "it fails": ("echo not allowed >&2; exit 1", "could not be downloaded: not allowed"),
    "it says nothing": ("true", "could not be downloaded"),
    "it names no folder": ("echo /no/such/folder", "could not be downloaded"),
    "it names a folder and fails": ("pwd; exit 1", "could not be downloaded"),
}


@pytest.mark.parametrize(("script", "said"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_download_that_fails_says_why(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        await resolve("org/model", tool(tmp_path, script))


async def test_a_download_ends_with_its_worker(tmp_path: Path) -> None:
    program = tool(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    task = asyncio.ensure_future(resolve("org/model", program))
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    await soon(asyncio.wait([task]))

    def gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await eventually(gone, "the end of the download")


CONFIGS: dict[str, tuple[dict[str, str], str | None]] = {
    "a file of its own": ({"chat_template.jinja": TURNS}, TURNS),
    "with a default": ({"chat_template.jinja": CHATTY}, None),
    "in the tokenizer's settings": ({"tokenizer_config.json": json.dumps({"chat_template": TURNS})}, TURNS),
    "the default of several": (
        {
            "tokenizer_config.json": json.dumps(
                {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TURNS}]}
            )
        },
        TURNS,
    ),
    "the file counts first": (
        {"chat_template.jinja": TURNS, "tokenizer_config.json": json.dumps({"chat_template": "x"})},
        TURNS,
    ),
}


@pytest.mark.parametrize(("files", "wanted"), CONFIGS.values(), ids=CONFIGS.keys())
def test_the_template_that_the_engine_gets(tmp_path: Path, files: dict[str, str], wanted: str | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    written = pure_chat_template(tmp_path, tmp_path / "made" / "chat_template.jinja")
    assert written is not None
    text = written.read_text()
    assert "Words" not in text
    assert wanted is None or text == wanted


NO_TEMPLATE: dict[str, dict[str, str]] = {
    "nothing": {},
    "settings without one": {"tokenizer_config.json": "{}"},
    "an empty one": {"tokenizer_config.json": '{"chat_template": null}'},
    "several, none the default": {"tokenizer_config.json": '{"chat_template": [{"name": "x", "template": "y"}]}'},
}


@pytest.mark.parametrize("files", NO_TEMPLATE.values(), ids=NO_TEMPLATE.keys())
def test_a_checkpoint_without_a_template(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert pure_chat_template(tmp_path, tmp_path / "made") is None


def test_a_template_that_stays_chatty_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(CHATTY.replace("'<system>Words'", "'<system>' + 'Words'"))
    with pytest.raises(ChatTemplateError):
        pure_chat_template(tmp_path, tmp_path / "made")
    assert not (tmp_path / "made").exists()
