"""python -m vision: the selfie worker."""

import sys

from core import logs
from core.service import serve
from core.settings import SettingsError
from vision.app import create_app
from vision.faces.base import DetectorUnavailable
from vision.faces.blazeface import BlazeFace
from vision.settings import VisionSettings


def main() -> None:
    try:
        settings = VisionSettings.load()
        detector = BlazeFace(settings.face_model)
    except (SettingsError, DetectorUnavailable) as exc:
        sys.exit(str(exc))
    logs.configure(settings.log_level, settings.log_format)
    serve(create_app(settings, detector), settings)


if __name__ == "__main__":
    main()
