"""LoRA adapters of a folder: loaded when asked for, the least recently used unloaded beyond a number or a size."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest, NotFound
from image.faults import is_out_of_memory

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
_UNKNOWN = ""


class Adapters:
    """A name is a file's name without its suffix. One is active at a time, or none."""

    def __init__(self, stock: Any, folder: Path | None = None, most: int = 1, most_bytes: int = 0) -> None:
        """`stock`: a diffusers pipeline. `most` are loaded at once, whose files have `most_bytes` together."""
        self._stock = stock
        self._folder = folder if hasattr(stock, "load_lora_weights") else None
        self._most = most
        self._most_bytes = most_bytes
        self._loaded: OrderedDict[str, int] = OrderedDict()  # bytes
        self._active: str | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """The least recently used first."""
        return tuple(self._loaded)

    def check(self, name: str | None) -> None:
        """Raises InvalidRequest for an adapter that is not there, or larger than all together may be."""
        if name is not None:
            self._size(name)

    def use(self, name: str | None) -> None:
        """What the model computes with from here on."""
        if name is not None:
            self.load(name)
        if name == self._active:
            return
        if name is None:
            self._stock.disable_lora()
        else:
            self._stock.set_adapters([name])
            self._stock.enable_lora()
        for part in self._stock.get_list_adapters():  # turning an adapter on marks it for training
            getattr(self._stock, part).requires_grad_(False)
        self._active = name

    def load(self, name: str) -> None:
        """Without using it yet. Raises InvalidRequest for what check refuses and for a file that does not fit."""
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        size = self._size(name)
        while self._loaded and (len(self._loaded) >= self._most or self._bytes + size > self._most_bytes):
            self.unload(next(iter(self._loaded)))
        self._active = _UNKNOWN  # loading turns it on or not, as the library likes
        try:
            self._read(name)
        except Exception as exc:  # the libraries raise all kinds for a file that is not what they expect
            self._clear(name)
            if is_out_of_memory(exc):
                raise
            log.warning("adapter refused", exc_info=exc, extra={"adapter": name})
            message = f"The adapter {name} does not fit the model."
            raise InvalidRequest(message, param="lora", code="lora_unusable") from exc
        self._loaded[name] = size
        log.info("adapter loaded", extra={"adapter": name, "bytes": size})

    def unload(self, name: str) -> None:
        """Give its memory back. Raises NotFound."""
        if name not in self._loaded:
            raise NotFound(f"No adapter called {name} is loaded.", param="lora", code="lora_not_loaded")
        if self._active == name:
            self._active = _UNKNOWN
        self._clear(name)
        del self._loaded[name]
        if not self._loaded:
            self._active = None
        log.info("adapter unloaded", extra={"adapter": name})

    @property
    def _bytes(self) -> int:
        return sum(self._loaded.values())

    def _size(self, name: str) -> int:
        if self._folder is None:
            raise InvalidRequest("This model takes no adapters here.", param="lora", code="unsupported_parameter")
        try:
            size = self._file(self._folder, name).stat().st_size
        except OSError as exc:
            raise InvalidRequest(f"No adapter is called {name}.", param="lora", code="lora_not_found") from exc
        if size > self._most_bytes:
            raise InvalidRequest(f"The adapter {name} is too large.", param="lora", code="lora_too_large")
        return size

    def _read(self, name: str) -> None:
        assert self._folder is not None
        file = self._file(self._folder, name)
        self._stock.load_lora_weights(
            file.parent, weight_name=file.name, adapter_name=name, local_files_only=True, use_safetensors=True
        )
        if not self._known(name):
            raise ValueError("none of its weights is the model's")

    def _clear(self, name: str) -> None:
        if self._known(name):
            self._stock.delete_adapters(name)

    def _known(self, name: str) -> bool:
        return any(name in names for names in self._stock.get_list_adapters().values())

    @staticmethod
    def _file(folder: Path, name: str) -> Path:
        return folder / f"{name}{SUFFIX}"


def files(folder: Path | None) -> dict[str, int]:
    """The bytes of each adapter in a folder, by name; whatever is loaded."""
    if folder is None or not folder.is_dir():
        return {}
    return {file.name.removesuffix(SUFFIX): file.stat().st_size for file in sorted(folder.glob(f"*{SUFFIX}"))}
