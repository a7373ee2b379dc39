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
    failed = []

    def give_up() -> None:
        failed.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    serve(create_app(settings, lambda: load(settings), on_load_failure=give_up), settings)
    if failed:
        sys.exit("The image model could not be loaded; the log says why.")


def load(settings: ImageSettings) -> StepPipeline:
    """The configured checkpoint, or the tiny untrained one, built on the first start."""
    from image.pipelines.load import load as load_checkpoint

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
