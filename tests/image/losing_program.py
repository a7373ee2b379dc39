"""An image worker whose device is lost in the first call after the start.

`python -m tests.image.losing_program CHECKPOINT`. Settings come from the environment, as for `python -m image`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from core.http.serving import serve
from image.app import create_app
from image.pipelines.base import Row
from image.pipelines.zimage import ZImage
from image.settings import ImageSettings
from tests.image.doubles import Transparent
from training.untrained import MODEL


class Losing(Transparent):
    """Warm-up draws one step; whatever comes after fails as CUDA does once a kernel has gone wrong."""

    calls = 0

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self.calls += 1
        if self.calls > 1:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().velocity(rows)


def main() -> None:
    torch.set_num_threads(1)
    settings = ImageSettings.load(image_model_id=MODEL)
    pipeline = ZImage.load(Path(sys.argv[1]), MODEL, "cpu", torch.float32)
    serve(create_app(settings, {MODEL: lambda: Losing(pipeline)}), settings)


if __name__ == "__main__":
    main()
