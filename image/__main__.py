"""The image worker: OpenAI's images API over diffusers, many requests in one denoising step.

IMAGE_MODEL names a checkpoint folder; without it the small model that is shipped draws.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from core import commands, core_files, logs, telemetry
from core.http.serving import serve
from core.settings import SettingsError
from image import encode, signing
from image.app import create_app
from image.building import Load, Pipeline
from image.settings import ImageSettings
from image.signing import SigningError
from image.worker import Worker


def parser() -> argparse.ArgumentParser:
    whole, verbs = commands.parser("image", __doc__)
    inspect = verbs.add_parser("inspect", help="print, as JSON, what a picture says of itself: model, run, signature")
    inspect.add_argument("file", type=Path, help="a PNG, JPEG or WebP file; 1 where it says nothing")
    return whole


def main(arguments: list[str] | None = None) -> None:
    chosen = parser().parse_args(arguments)
    if chosen.command == "inspect":
        sys.exit(print_marks(chosen.file))
    try:
        settings = ImageSettings.load()
        if chosen.command == "settings":
            commands.print_settings(settings, as_json=chosen.json)
            return
        run(settings)
    except (SigningError, SettingsError) as exc:
        sys.exit(f"Settings: {exc}")


def run(settings: ImageSettings) -> None:
    core_files.none_left()
    telemetry.off()
    logs.configure(settings.log_level, settings.log_format)
    loads: dict[str, Load] = {id: partial(load, settings, id, folder) for id, folder in settings.checkpoints.items()}
    serve(create_app(settings, loads, on_load_failure=_end, on_started=_drain_on_sigterm), settings)


def load(settings: ImageSettings, id: str, folder: Path) -> Pipeline:
    """A configured checkpoint, or the one that is shipped."""
    from image.pipelines.load import load as load_checkpoint

    return load_checkpoint(folder, id, settings)


def print_marks(file: Path) -> int:
    """JSON on stdout; 1 where the file cannot be read or says nothing."""
    try:
        content = file.read_bytes()
        facts: dict[str, Any] = dict(encode.facts_of(content))
    except (OSError, ValueError) as exc:
        print(f"{file}: {exc}", file=sys.stderr)
        return 1
    manifest = signing.manifest_of(content, encode.Output(encode.format_of(content)))
    print(json.dumps({"file": file.name, "marks": facts, "c2pa": manifest}, indent=1, ensure_ascii=False))
    return 0 if facts or manifest else 1


def _end() -> None:
    """As from outside: the server closes, and the exit status tells that it did not end by itself."""
    os.kill(os.getpid(), signal.SIGTERM)


def _drain_on_sigterm(worker: Worker) -> None:
    """The first SIGTERM takes no more images and lets those here end; the server's own handler follows."""
    loop = asyncio.get_running_loop()
    end: Any = signal.getsignal(signal.SIGTERM)
    draining: list[asyncio.Task[None]] = []

    async def drain() -> None:
        worker.begin_drain()
        try:
            async with asyncio.timeout(worker.settings.image_drain_seconds):
                await worker.idle()
        except TimeoutError:
            pass
        end(signal.SIGTERM, None)

    def on_signal() -> None:
        if draining:  # the second one: at once
            end(signal.SIGTERM, None)
        else:
            draining.append(loop.create_task(drain()))

    loop.add_signal_handler(signal.SIGTERM, on_signal)


if __name__ == "__main__":
    main()
