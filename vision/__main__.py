"""The selfie worker: faces, photo quality and coarse features of one picture; nothing of it is kept.

VISION_VLM_URL names a vision model that it may ask as well.
"""

import argparse
import sys

from core import commands, core_files, logs, telemetry
from core.http.serving import serve
from core.pictures.decode import Limits
from core.pictures.processes import DecodingProcesses
from core.settings import SettingsError
from vision.analysis import FaceModels
from vision.app import create_app
from vision.describe import VisionModel
from vision.faces import yolo
from vision.faces.base import Detector, ModelUnavailable
from vision.faces.blazeface import BlazeFace
from vision.reading import SmallModels
from vision.settings import VisionSettings


def parser() -> argparse.ArgumentParser:
    return commands.parser("vision", __doc__)[0]


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    core_files.none_left()
    telemetry.off()
    try:
        settings = VisionSettings.load()
        if given.command == "settings":
            commands.print_settings(settings, as_json=given.json)
            return
        models = FaceModels(detector(settings), SmallModels() if settings.vision_features == "small" else None)
    except (SettingsError, ModelUnavailable) as exc:
        sys.exit(str(exc))
    logs.configure(settings.log_level, settings.log_format)
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_decode_mb << 20)
    decoder = DecodingProcesses(limits, settings.vision_threads, settings.decode_seconds)
    serve(create_app(settings, models, decoder, vision_model(settings)), settings)


def detector(settings: VisionSettings) -> Detector:
    """Raises ModelUnavailable."""
    if settings.vision_detector == "yolo":
        return yolo.load(settings.yolo_weights, settings.vision_device)
    return BlazeFace(settings.face_model)


def vision_model(settings: VisionSettings) -> VisionModel | None:
    if settings.vision_vlm_url is None or settings.vision_vlm_model is None:
        return None
    key = settings.vision_vlm_key.get_secret_value() if settings.vision_vlm_key else None
    return VisionModel(settings.vision_vlm_url, settings.vision_vlm_model, key, settings.vision_vlm_seconds)


if __name__ == "__main__":
    main()
