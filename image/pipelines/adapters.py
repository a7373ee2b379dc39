"""LoRA adapters of a folder: loaded when first asked for, the least recently used unloaded beyond a number."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest

log = logging.getLogger(__name__)

_UNKNOWN = ""


class Adapters:
    """A name is a file's name without `.safetensors`. One is active at a time, or none."""

    def __init__(self, stock: Any, folder: Path | None, most: int) -> None:
        self._stock = stock
        self._folder = folder
        self._most = most
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._active: str | None = None

    def check(self, name: str | None) -> None:
        """Raises InvalidRequest for a name without a file."""
        if name is not None and (self._folder is None or not self._file(self._folder, name).is_file()):
            raise InvalidRequest(f"No adapter is called {name}.", param="lora", code="lora_not_found")

    def use(self, name: str | None) -> None:
        """What the transformer computes with from here on."""
        if name is not None:
            self._load(name)
        if name == self._active:
            return
        if name is None:
            self._stock.transformer.disable_lora()
        else:
            self._stock.transformer.set_adapters([name])
            self._stock.transformer.enable_lora()
        self._stock.transformer.requires_grad_(False)  # turning an adapter on marks it for training
        self._active = name

    def _load(self, name: str) -> None:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        self.check(name)
        assert self._folder is not None
        file = self._file(self._folder, name)
        self._stock.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name, local_files_only=True)
        self._active = _UNKNOWN  # loading turns it on or not, as the library likes
        self._loaded[name] = None
        log.info("adapter loaded", extra={"adapter": name})
        if len(self._loaded) > self._most:
            old, _ = self._loaded.popitem(last=False)
            self._stock.delete_adapters(old)
            log.info("adapter unloaded", extra={"adapter": old})

    @staticmethod
    def _file(folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"
