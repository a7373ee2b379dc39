"""The first image of a process is slow: kernels are chosen, buffers made. It is drawn before anybody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image import batch
from image.batch import RequestState
from image.embeddings import Embeddings
from image.pipelines.base import StepPipeline
from image.request import ImageRequest, RequestId

if TYPE_CHECKING:
    from image.pipelines.whole import WholePipeline


def resident(pipeline: StepPipeline, size: tuple[int, int], id: int) -> RequestState:
    """A request with an empty prompt, ready to step; nobody sees its image."""
    width, height = (min(side, pipeline.max_side) for side in size)
    request = ImageRequest("", width, height, steps=2, seed=id)
    state = batch.admit(pipeline, request, RequestId(id), 0)
    batch.make_resident(pipeline, [state], Embeddings(0))
    return state


def warm(pipeline: StepPipeline, size: tuple[int, int]) -> None:
    """Every kind of device call once, at the size most will ask for."""
    state = resident(pipeline, size, 0)
    batch.step(pipeline, [state])
    if state.denoising is not None:
        pipeline.preview([state.denoising.latents])
        pipeline.decode([state.denoising.latents])
    pipeline.release_memory()


def warm_whole(pipeline: WholePipeline, size: tuple[int, int]) -> None:
    """As warm, for a pipeline that runs whole requests."""
    pipeline.run([ImageRequest("", *size, steps=2, seed=0)], lambda taken, look: None)
    pipeline.release_memory()
