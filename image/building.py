"""From a loaded model to an engine that is warm: how much fits a step is measured here, once for a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Union

from image import calibration, warming
from image.device import Device
from image.engine import Engine, Sizing
from image.messages import CommandQueue, Publish, Runner
from image.pipelines.base import StepPipeline
from image.settings import ImageSettings
from image.whole_engine import WholeEngine

if TYPE_CHECKING:
    from image.pipelines.whole import WholePipeline

log = logging.getLogger(__name__)

Pipeline = Union[StepPipeline, "WholePipeline"]
Load = Callable[[], Pipeline]


def builder(
    settings: ImageSettings, model: str, load: Load, device: Device
) -> Callable[[CommandQueue, Publish], Runner]:
    """What an engine's thread does before it takes requests."""

    def build(commands: CommandQueue, publish: Publish) -> Runner:
        pipeline = load()
        from image.pipelines.whole import WholePipeline  # by now its libraries are loaded

        if isinstance(pipeline, WholePipeline):
            with device.turn():
                warming.warm_whole(pipeline, settings.default_size)
            return WholeEngine(pipeline, commands, publish, device, settings.image_whole_batch)
        with device.turn():
            sizing = _sizing(settings, model, pipeline)
            warming.warm(pipeline, settings.default_size)
        return Engine(pipeline, sizing, commands, publish, device)

    return build


def _sizing(settings: ImageSettings, model: str, pipeline: StepPipeline) -> Sizing:
    sizing = Sizing(
        settings.budget,
        settings.image_embedding_cache_mb << 20,
        settings.image_encode_batch,
        settings.image_decode_pixels,
    )
    if settings.image_token_budget:
        return sizing
    found = calibration.for_device(pipeline, settings.data_dir / "image" / "calibration.json", settings.default_size)
    log.info("steps are sized", extra={"model": model, "tokens": found.tokens, "reserved_bytes": found.bytes})
    budget = replace(sizing.budget, tokens=found.tokens)
    return replace(sizing, budget=budget, reserved_bytes=found.bytes)
