"""A checkpoint's size, read from the headers of its safetensors files: no tensor is loaded. What is quantised counts as
it is stored."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

MOST_HEADER = 100 << 20  # bytes; the format's own bound


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters, and bytes of the tensors on disk."""

    parameters: int
    size: int


def weights(folder: Path) -> Weights | None:
    """Of all safetensors files of a checkpoint together; None where it has none. Raises ValueError on a broken
    one, OSError on one that is missing."""
    found: dict[str, tuple[int, int]] = {}
    for file in _files(folder):
        found.update(_tensors(file))
    if not found:
        return None
    return Weights(sum(count for count, _ in found.values()), sum(size for _, size in found.values()))


def _files(folder: Path) -> list[Path]:
    """Those that make up the model: a repository may hold the same weights in another form beside them."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        named = json.loads(index.read_text("utf-8")).get("weight_map") or {}
        return [folder / name for name in sorted(set(named.values()))]
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def _tensors(file: Path) -> dict[str, tuple[int, int]]:
    """(parameters, bytes) of each tensor by name."""
    with file.open("rb") as data:
        start = data.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= MOST_HEADER:
            raise ValueError(f"{file.name} is not a safetensors file")
        header = json.loads(data.read(length))
    return {
        name: (math.prod(tensor["shape"]), tensor["data_offsets"][1] - tensor["data_offsets"][0])
        for name, tensor in header.items()
        if name != "__metadata__"
    }
