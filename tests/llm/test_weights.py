"""A checkpoint's size from its safetensors headers."""

import json
import struct
from pathlib import Path

import pytest

from llm.weights import Weights, weights


def written(file: Path, tensors: dict[str, tuple[list[int], int]]) -> None:
    """A file of these tensors: shape and bytes of each."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, size) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def test_several_files_together(tmp_path: Path) -> None:
    written(tmp_path / "model-1.safetensors", {"a": ([2, 3], 12), "b": ([4], 8)})
    written(tmp_path / "model-2.safetensors", {"c": ([5, 1], 10), "scalar": ([], 2)})
    assert weights(tmp_path) == Weights(parameters=16, size=32)


def test_the_same_weights_in_another_form_are_not_counted(tmp_path: Path) -> None:
    for name in ("consolidated", "model"):
        written(tmp_path / f"{name}.safetensors", {name: ([2, 3], 12)})
    assert weights(tmp_path) == Weights(parameters=6, size=12)
    written(tmp_path / "model-1-of-1.safetensors", {"a": ([5], 10)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1-of-1.safetensors"}}))
    assert weights(tmp_path) == Weights(parameters=5, size=10)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(OSError, match="gone"):
        weights(tmp_path)


def test_none_at_all(tmp_path: Path) -> None:
    assert weights(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"short", struct.pack("<Q", 1 << 40), struct.pack("<Q", 4) + b"not "])
def test_a_broken_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        weights(tmp_path)
