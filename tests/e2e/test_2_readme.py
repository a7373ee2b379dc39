"""README's snippets, run as they stand but for the port and the data directory of this studio."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.studio import ROOT, Studio

README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```(python|bash)\n(.*?)^```$", README, re.M | re.S)


async def run(studio: Studio, language: str, code: str, folder: Path) -> str:
    code = code.replace("http://127.0.0.1:8000/v1", studio.base_url)
    (folder / "data").symlink_to(studio.data)
    argv = (sys.executable, "-c", code) if language == "python" else ("bash", "-euo", "pipefail", "-c", code)
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


EXPECTED = ("The capital of France is Paris.", "data: [DONE]", "x-prompt-release: chat_conversation@", ".")


@pytest.mark.parametrize(("snippet", "expected"), list(zip(SNIPPETS, EXPECTED, strict=True)), ids=range(len(SNIPPETS)))
async def test_a_snippet_does_what_it_says(
    studio: Studio, snippet: tuple[str, str], expected: str, tmp_path: Path
) -> None:
    language, code = snippet
    assert expected in await run(studio, language, code, tmp_path)
    if "apple.png" in code:
        with Image.open(tmp_path / "apple.png") as image:
            assert image.size == (128, 128)
