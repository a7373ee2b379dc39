"""How large a step is on this device, and what the parts of a model may be turned into."""

import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from image import calibration, warming
from image.calibration import Measurement, choose, measure
from image.embeddings import Embeddings
from image.pipelines import previews, tuning
from image.pipelines.load import CheckpointError, load
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId
from image.settings import ImageSettings
from tests.image.doubles import Wrapped
from tests.image.reference import Stock
from training.untrained import MODEL

pytestmark = pytest.mark.slow


def timed(*points: tuple[int, float, int]) -> list[Measurement]:
    return [Measurement(*point) for point in points]


CHOICES = {
    "the smallest that is nearly as fast": (timed((1, 1.0, 1), (2, 1.02, 2), (4, 2.0, 4), (8, 4.0, 8)), 100, 2),
    "larger while that pays": (timed((1, 1.0, 1), (2, 1.1, 2), (4, 1.2, 4)), 100, 4),
    "not more than memory holds": (timed((1, 1.0, 10), (2, 1.1, 20), (4, 1.2, 90)), 100, 2),
    "one where nothing fits": (timed((1, 1.0, 1000), (2, 1.1, 2000)), 100, 1),
}


@pytest.mark.parametrize("case", CHOICES.values(), ids=CHOICES)
def test_choice(case: tuple[list[Measurement], int, int]) -> None:
    measured, free, expected = case
    assert choose(measured, free).tokens == expected


def test_measuring_ends_with_memory_patience_or_gain() -> None:
    assert len(measure(lambda rows: Measurement(rows, 1.0, rows * 10), free=100)) == 5  # twice 6 rows would not fit
    assert len(measure(lambda rows: Measurement(rows, 30.0, 0), free=100)) == 1
    assert len(measure(lambda rows: Measurement(rows, 9.0, 0), free=100)) == 3  # in all, not each
    assert len(measure(lambda rows: Measurement(rows, rows**0.5, 0), free=100)) == len(calibration.ROWS)
    assert len(measure(lambda rows: Measurement(rows, float(rows), 0), free=100)) == 3  # two that gained nothing


def test_it_is_measured_once_for_a_device(pipeline: ZImage, tmp_path: Path) -> None:
    class Counting(Wrapped):
        steps = 0

        def velocity(self, rows):  # type: ignore[no-untyped-def]
            self.steps += 1
            return super().velocity(rows)

    file, counting = tmp_path / "deep" / "calibration.json", Counting(pipeline)
    first = calibration.for_device(counting, file, (64, 64))
    assert counting.steps > 0
    measured = counting.steps
    assert calibration.for_device(counting, file, (64, 64)) == first
    assert counting.steps == measured
    [key] = json.loads(file.read_text())
    assert key.startswith(f"{MODEL} cpu")
    file.write_text("damaged")
    assert calibration.for_device(counting, file, (64, 64)).tokens > 0


@pytest.fixture
def own(checkpoint: Path) -> ZImage:
    """A pipeline that a test may turn into something else."""
    return ZImage.load(checkpoint, MODEL, "cpu", torch.float32)


def settings(**given: object) -> ImageSettings:
    return ImageSettings.load(**given)


def estimate(pipeline: ZImage) -> torch.Tensor:
    from image import batch

    states = [
        batch.admit(pipeline, ImageRequest(text, 64 * (i + 1), 64, 2, seed=i), RequestId(i), 0)
        for i, text in enumerate(("a boat", "a long description of fog over the harbour", "x"))
    ]
    batch.make_resident(pipeline, states, Embeddings(0))
    batch.step(pipeline, states)
    assert all(s.denoising is not None for s in states)
    return torch.cat([s.denoising.latents.flatten() for s in states if s.denoising])


def test_eight_bit_weights_stay_close(pipeline: ZImage, own: ZImage) -> None:
    tuning.apply(own, settings(image_encoder_dtype="fp8", image_transformer_fp8=True))
    kept = {p.dtype for p in own.transformer.layers.parameters() if p.dim() > 1}
    assert kept == {torch.float8_e4m3fn}
    full, eight = estimate(pipeline), estimate(own)
    assert not torch.equal(full, eight)
    assert torch.nn.functional.cosine_similarity(full, eight, dim=0) > 0.98


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the dependency group image-4bit")
def test_a_4_bit_encoder_stays_close(checkpoint: Path, pipeline: ZImage) -> None:
    four = load(checkpoint, MODEL, settings(image_encoder_dtype="nf4", image_device="cpu"))
    assert isinstance(four, ZImage)
    assert {p.dtype for n, p in four.text_encoder.named_parameters() if "proj" in n} == {torch.uint8}
    [near], [exact] = (p.encode([p.tokenize("a boat at dawn")]) for p in (four, pipeline))
    assert torch.nn.functional.cosine_similarity(near.flatten(), exact.flatten(), dim=0) > 0.85  # 16 numbers a row


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="the dependency group image-4bit is there")
def test_a_4_bit_encoder_says_what_it_needs(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="image-4bit"):
        load(checkpoint, MODEL, settings(image_encoder_dtype="nf4", image_device="cpu"))


def test_adapters_and_compiled_blocks_exclude_each_other(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not both"):
        load(checkpoint, MODEL, settings(image_compile=True, image_lora_dir=tmp_path))


def test_an_encoder_of_another_format(pipeline: ZImage, own: ZImage) -> None:
    tuning.apply(own, settings(image_encoder_dtype="bfloat16"))
    assert next(own.text_encoder.parameters()).dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(estimate(pipeline), estimate(own), dim=0) > 0.99


def test_the_attention_backend_is_the_one_asked_for(pipeline: ZImage, own: ZImage) -> None:
    tuning.apply(own, settings(image_attention="_native_math"))
    torch.testing.assert_close(estimate(own), estimate(pipeline), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no_such"):
        tuning.apply(own, settings(image_attention="no_such"))


def test_compiled_blocks_see_bucketed_shapes_and_compute_the_same(pipeline: ZImage, own: ZImage) -> None:
    seen: set[tuple[int, ...]] = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):  # type: ignore[no-untyped-def]
        seen.update(tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 3)
        return graph.forward

    tuning.compile_blocks(own.transformer, backend=backend)
    torch.testing.assert_close(estimate(own), estimate(pipeline), atol=1e-5, rtol=0)
    assert {shape[:2] for shape in seen if shape[-1] == 32} == {(4, 256)}


def test_every_bucket_is_compiled() -> None:
    """More than the eight shapes after which PyTorch would give up."""

    class Block(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def forward(self, x: torch.Tensor, mask: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
            return x * mask.unsqueeze(2) + freqs

    compiled = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):  # type: ignore[no-untyped-def]
        nonlocal compiled
        compiled += 1
        return graph.forward

    layers = torch.nn.ModuleList([Block()])
    tuning.compile_blocks(SimpleNamespace(noise_refiner=[], context_refiner=[], layers=layers), backend=backend)
    for rows, length in product((1, 2, 3), (200, 300, 600, 900)):
        x = torch.randn(rows, length, 4)
        assert torch.equal(layers[0](x, None, x), 2 * x)
    assert compiled == 3 * 4  # 3 rows are padded to 4


def test_buckets_are_few() -> None:
    assert [tuning.bucket(n) for n in (1, 256, 257, 2048, 2049, 4200)] == [256, 256, 512, 2048, 4096, 8192]
    assert len({tuning.bucket(n) for n in range(1, 20_000)}) <= 12


def test_previews_by_matrix_vae_and_tiny_decoder(own: ZImage, stock: Stock, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    latents = [stock.latents(ImageRequest("a boat", 96, 64, 2, seed=1))]
    AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(tmp_path)
    shown = [own.preview(latents)]
    for preview in (
        previews.through_vae(own.vae),
        previews.through_tiny_decoder(tmp_path, torch.device("cpu"), torch.float32),
    ):
        own.show_with(preview)
        shown.append(own.preview(latents))
    assert all((p[0].width, p[0].height) == (96, 64) for p in shown)
    assert shown[1] == own.decode(latents)
    assert len({p[0].rgb for p in shown}) == 3


def test_weights_that_do_not_fit_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from image.pipelines import memory

    monkeypatch.setattr(memory, "free", lambda device: 1000)
    with pytest.raises(CheckpointError, match="MiB free"):
        load(checkpoint, MODEL, settings())


def test_warming_leaves_nothing_behind(pipeline: ZImage) -> None:
    warming.warm(pipeline, (64, 64))
    state = warming.resident(pipeline, (4096, 64), 3)
    assert state.request.width == pipeline.max_side
