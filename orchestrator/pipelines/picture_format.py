"""Pictures in plain JSON, shown to who may see them: as base64, or as a link."""

import base64
import re
from dataclasses import dataclass
from typing import Any

from orchestrator.operate.blobs import Blobs, Reference, is_reference

B64 = re.compile(r"(?:^|_)(?:base64|b64_json)$")


@dataclass(frozen=True)
class PictureFormat:
    """`base`: the address that links begin with. A link stands under `image_url` or `url` where the picture stood under
    `image_base64` or `b64_json`."""

    blobs: Blobs
    base: str
    as_url: bool = False

    async def apply(self, value: Any) -> Any:
        """The same JSON with a picture for each reference. Raises NotFound where one is not kept any more."""
        if isinstance(value, dict):
            return {self._name(name, inner): await self._inner(inner) for name, inner in value.items()}
        return await self._inner(value)

    async def _inner(self, value: Any) -> Any:
        if is_reference(value):
            return await self._picture(value)
        if isinstance(value, dict):
            return await self.apply(value)
        if isinstance(value, list):
            return [await self._inner(inner) for inner in value]
        return value

    async def _picture(self, reference: Reference) -> str:
        if self.as_url:
            return self.blobs.url(reference, self.base)
        return base64.b64encode(await self.blobs.get(reference)).decode()

    def _name(self, name: str, value: Any) -> str:
        if not (self.as_url and is_reference(value)):
            return name
        return B64.sub(lambda found: "_url" if found[0].startswith("_") else "url", name)
