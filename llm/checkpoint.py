"""A model's source made local: a folder as it is, a hub repository downloaded by the engine environment's own tool."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

from llm.chat_template import without_default_system

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """The checkpoint is not there and could not be had; the message says what to do."""


async def resolve(source: str, python: Path, hf_token: str | None = None) -> Path:
    """The checkpoint's folder. Raises CheckpointError."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_absolute():
        raise CheckpointError(f"{source} does not exist; `make up` prepares the small model there")
    log.info("downloading checkpoint", extra={"source": source})
    process = await asyncio.create_subprocess_exec(
        str(python),
        *("-m", "huggingface_hub.cli.hf", "download", source, "--quiet"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **({"HF_TOKEN": hf_token} if hf_token else {})},
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:  # cancelled: the worker stops
            process.kill()
            await process.wait()
    folder = Path(out.decode().strip().splitlines()[-1]) if process.returncode == 0 and out.strip() else None
    if folder is None or not folder.is_dir():
        raise CheckpointError(f"{source} could not be downloaded: {err.decode(errors='replace')[-500:]}")
    return folder


def pure_chat_template(checkpoint: Path, into: Path) -> Path | None:
    """Write the checkpoint's chat template, less its default system message, to `into`; None if it has none."""
    template = _own_template(checkpoint)
    if template is None:
        return None
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(without_default_system(template), "utf-8")
    return into


def _own_template(checkpoint: Path) -> str | None:
    file = checkpoint / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    config = checkpoint / "tokenizer_config.json"
    if not config.is_file():
        return None
    template: Any = json.loads(config.read_text("utf-8")).get("chat_template")
    if isinstance(template, list):  # several named ones: the default is what /v1/chat/completions uses
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return str(template) if template else None
