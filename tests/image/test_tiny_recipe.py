"""The small picture model's recipe: words, scenes, latents, and training that can be cut off."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.tiny import autoencoder, export, fast, latents, model, muon, prompts, scenes, train, vocabulary
from training.tiny.learning import Pace
from training.tiny.pictures import ONE, TWO, Painter

SMALL = model.Sizes(width=48, heads=2, layers=1, text_layers=2, autoencoder=(8, 8, 8, 8))


@pytest.fixture(scope="module")
def painter() -> Painter:
    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    icons: dict[Any, Any] = {}
    for thing in scenes.things():
        for style in scenes.STYLES:
            colour = np.append(rng.integers(0, 255, 3), 255)
            for size in (ONE, TWO):
                icons[style, thing.word, size] = np.broadcast_to(colour, (size, size, 4)).astype(np.uint8)
    return Painter(icons)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("A fluffy kitty beside two puppies, on a bright Blue background!", "cat and dog on blue background"),
        ("a hot dog and a polar bear with ice cream", "hotdog and bear and icecream"),
        ("a car to the left of a fire truck in 3D", "car left of firetruck 3d"),
        ("a smiling girl with long ginger hair", "smiling woman and long red hair"),
        ("nothing known here", ""),
    ],
)
def test_words_are_folded_and_what_is_unknown_is_dropped(said: str, heard: str) -> None:
    tokenizer = vocabulary.tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer(said)["input_ids"]) == heard.split()


def test_every_word_that_prompts_use_is_known() -> None:
    tokenizer, rng = vocabulary.tokenizer(), np.random.default_rng(0)
    nouns = tuple(thing.word for thing in scenes.things())
    kinds: tuple[scenes.Kind, ...] = ("one", "two", "person")
    for i in range(300):
        scene = scenes.draw(rng, kinds[i % 3], nouns)
        ids = tokenizer(prompts.tell_plainly(scene))["input_ids"]
        assert all(vocabulary_id >= len(vocabulary.SPECIAL) for vocabulary_id in ids)
        assert set(scene.things) <= set(tokenizer.convert_ids_to_tokens(ids))
        assert len(ids) + 3 <= fast.TEXT_TOKENS
    assert len({thing.word for thing in scenes.things()}) == len(scenes.things()) == 201


def test_training_never_draws_what_is_held_out() -> None:
    rng = np.random.default_rng(0)
    nouns = tuple(thing.word for thing in scenes.things() if thing.word != scenes.UNKNOWN)
    drawn = [scenes.draw(rng, "two", nouns) for _ in range(400)]
    assert 0.1 < np.mean([scenes.held_out(scene) for scene in drawn]) < 0.3
    assert not any(scenes.held_out(scenes.draw_trained(rng, "one", nouns)) for _ in range(200))
    mirrored = scenes.Scene("flat", "red", ("cat", "dog")), scenes.Scene("3d", "blue", ("dog", "cat"))
    assert scenes.held_out(mirrored[0]) == scenes.held_out(mirrored[1])


def test_latents_give_back_the_picture(painter: Painter) -> None:
    pictures = np.stack([painter.paint(scenes.Scene("flat", c, ("cat",))) for c in scenes.BACKGROUNDS])
    space = latents.LatentSpace.fit(pictures)
    read = space.read(pictures)
    assert read.shape == (len(pictures), latents.CHANNELS, 16, 16)
    flat = space.read(np.ones((1, 32, 32, 3), np.float32))[0]
    assert torch.allclose(flat[:, 0, 0], flat[:, 2, 2])
    assert not torch.allclose(flat[:, 0, 0], flat[:, 0, 1])
    assert not torch.allclose(flat[:, 0, 0], flat[:, 1, 0])
    assert np.abs(space.write(read) - pictures).mean() < 0.02


def test_the_fast_forward_is_the_stock_one() -> None:
    torch.manual_seed(0)
    stock = model.transformer(SMALL)
    for weight in stock.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, t, text = torch.randn(3, 16, 16, 16), torch.rand(3), torch.randn(3, 9, SMALL.width)
    lengths = torch.tensor([4, 9, 6])
    with torch.no_grad():
        words = [row[:n] for row, n in zip(text, lengths.tolist(), strict=True)]
        expected = torch.stack(stock(list(x.unsqueeze(2)), t, words, return_dict=False)[0]).squeeze(2)
        got = fast.Fast(stock)(x, t, text, lengths)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_kernel_learns_as_a_matrix() -> None:
    kernel = torch.nn.Parameter(torch.zeros(4, 6, 3, 3))
    kernel.grad = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    muon.Muon([kernel], lr=1.0).step()
    values = torch.linalg.svdvals(kernel.detach().flatten(1))
    assert values.min() > 0.5 * values.max()


@pytest.mark.parametrize("shape", [(2, 8, 20), (2, 20, 8)])
def test_muon_makes_matrices_orthogonal(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(muon.orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
    assert values.min() > 0.5
    assert values.max() < 1.5


def _trainer(folder: Path, painter: Painter, steps: int = 4) -> train.Trainer:
    pictures = np.random.default_rng(0).random((4, 128, 128, 3), np.float32)
    pace = Pace(steps=steps, decay_from=3, warmup=1)
    plan = train.Plan(pace=pace, batch=4, shares=(0.5, 0.5, 0.0), compiled=False, sizes=SMALL)
    return train.Trainer(plan, folder, painter, latents.LatentSpace.fit(pictures))


def test_a_run_that_was_cut_off_goes_on_as_it_would_have(tmp_path: Path, painter: Painter) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    straight = _trainer(whole, painter)
    losses = [straight.advance() for _ in range(4)]
    first = _trainer(cut, painter)
    assert [first.advance(), first.advance()] == losses[:2]
    first.learner.save()
    resumed = _trainer(cut, painter)
    assert resumed.learner.step == 2
    assert [resumed.advance(), resumed.advance()] == losses[2:]
    assert straight.loss(0) < losses[0]
    assert torch.equal(straight.sample(["a cat"]), resumed.sample(["a cat"]))


def _teacher(folder: Path, painter: Painter) -> autoencoder.Trainer:
    pictures = np.random.default_rng(0).random((4, 128, 128, 3), np.float32)
    plan = autoencoder.Plan(pace=Pace(steps=4, decay_from=2, warmup=1), pictures=1, encoder_every=2, sizes=SMALL)
    return autoencoder.Trainer(plan, folder, _Faceless(painter), latents.LatentSpace.fit(pictures))


class _Faceless(Painter):
    """Paints a thing where a person is asked for, whose parts are not installed here."""

    def __init__(self, painter: Painter) -> None:
        super().__init__(painter._icons)

    def paint(self, scene: scenes.Scene) -> Any:
        return super().paint(scenes.Scene("flat", scene.background, ("cat",)) if scene.person else scene)


def test_the_autoencoder_learns_and_goes_on_where_it_was_cut_off(tmp_path: Path, painter: Painter) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    straight, first = _teacher(whole, painter), _teacher(cut, painter)
    losses = [straight.advance() for _ in range(4)]
    assert [first.advance(), first.advance()] == losses[:2]
    first.learner.save()
    resumed = _teacher(cut, painter)
    assert [resumed.advance(), resumed.advance()] == losses[2:]
    assert straight.fidelity(4) == resumed.fidelity(4)
    straight.show(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_stock_diffusers_draws_with_what_is_exported(tmp_path: Path) -> None:
    from diffusers import ZImagePipeline
    from safetensors.torch import load_file

    torch.manual_seed(0)
    export.export(tmp_path, model.transformer(SMALL), model.text_encoder(SMALL), model.autoencoder(SMALL))
    for file in tmp_path.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(file).values()} == {torch.float16}
    pipeline = ZImagePipeline.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a cat", height=48, width=64, num_inference_steps=2, guidance_scale=0.0, output_type="np").images
    assert drawn.shape == (1, 48, 64, 3)
    assert np.isfinite(drawn).all()
    levels = [float(s) for s in pipeline.scheduler.sigmas[:-1]]
    np.testing.assert_allclose(levels, model.noise_levels(2), atol=1e-5)


@pytest.mark.slow
def test_the_whole_way_from_icons_to_a_pipeline(tmp_path: Path, painter: Painter) -> None:
    from training.tiny.__main__ import make, rehearsal

    work, out = tmp_path / "work", tmp_path / "model"
    make(rehearsal("cpu"), work, out, _Faceless(painter))
    assert {f.parent.name for f in out.rglob("*.safetensors")} == {"transformer", "text_encoder", "vae"}
    grids = sorted(str(f.relative_to(work)) for f in work.rglob("*.png"))
    assert grids == [f"{part}/grids/{step:06d}.png" for part in ("autoencoder", "transformer") for step in (6, 12)]
    losses = [json.loads(line)["loss"] for line in (work / "transformer" / "log.jsonl").read_text().splitlines()]
    assert losses
    weights = (out / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    make(rehearsal("cpu"), work, out, _Faceless(painter))  # nothing is left to do
    assert (out / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
