"""`python -m image`: the image worker."""

import os
import signal
import sys

from core import logs
from core.service import serve
from core.settings import SettingsError
from image import tiny_untrained
from image.app import create_app
from image.pipelines.base import StepPipeline
from image.settings import ImageSettings


def main() -> None:
    try:
        settings = ImageSettings.load()
    except SettingsError as exc:
        sys.exit(f"Settings: {exc}")
    logs.configure(settings.log_level, settings.log_format)
    serve(create_app(settings, lambda: load(settings), on_load_failure=_end), settings)


def _end() -> None:
    """As from outside: the server closes, and the exit status tells that it did not end by itself."""
    os.kill(os.getpid(), signal.SIGTERM)


def load(settings: ImageSettings) -> StepPipeline:
    """The configured checkpoint, or the tiny untrained one, built on the first start."""
    from image.pipelines.load import load as load_checkpoint
    from image.pipelines.load import quiet

    quiet()
    if settings.image_model is None:
        tiny_untrained.ensure(settings.checkpoint)
    return load_checkpoint(
        settings.checkpoint,
        settings.model_id,
        device=settings.image_device,
        dtype=settings.image_dtype,
        threads=settings.image_threads,
    )


if __name__ == "__main__":
    main()
