"""The tiny checkpoint: the same weights every time, and a tokenizer that adds no words."""

from pathlib import Path

import pytest
import torch

from image.pipelines.base import Row
from image.pipelines.load import CheckpointError, load
from image.pipelines.zimage import ZImage
from image.settings import ImageSettings
from training import untrained


def weights(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}


def test_a_seed_gives_the_same_weights(checkpoint: Path, tmp_path: Path) -> None:
    again = untrained.ensure(tmp_path / "again")
    other = untrained.ensure(tmp_path / "other", seed=1)
    assert weights(again) == weights(checkpoint)
    assert weights(other) != weights(checkpoint)


def test_what_is_there_is_kept_and_what_is_stale_is_built_anew(tmp_path: Path) -> None:
    folder = untrained.ensure(tmp_path / "tiny")
    index = folder / "model_index.json"
    built = index.stat().st_mtime_ns
    untrained.ensure(folder)
    assert index.stat().st_mtime_ns == built
    next(folder.glob("soundstage-recipe*")).write_text("older")
    untrained.ensure(folder)
    assert index.stat().st_mtime_ns != built
    assert [f.name for f in tmp_path.iterdir()] == ["tiny"]


def test_the_template_adds_marks_and_roles_only(pipeline: ZImage) -> None:
    tokens = pipeline.tokenize("a boat, à la mode 🚤")
    text = pipeline._tokenizer.decode(tokens.ids)
    assert text == "<|im_start|>user\na boat, à la mode 🚤<|im_end|>\n<|im_start|>assistant\n"


def test_the_prompt_and_the_step_move_the_output(pipeline: ZImage) -> None:
    """Untrained, yet nothing is ignored: tests that compare outputs would see a mix-up."""
    texts = pipeline.encode([pipeline.tokenize("a boat"), pipeline.tokenize("a tower at night")])
    latents = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(0))
    early, late = torch.tensor(0.0), torch.tensor(0.9)
    a, b, c = pipeline.velocity(
        [Row(latents, early, texts[0]), Row(latents, early, texts[1]), Row(latents, late, texts[0])]
    )
    assert (a - b).abs().max() > 1e-2
    assert (a - c).abs().max() > 1e-2


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        load(tmp_path, "x", ImageSettings.load())
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(CheckpointError, match="NoSuchPipeline"):
        load(tmp_path, "x", ImageSettings.load())
