"""/v1/blobs: pictures behind signed links. The signature is the key."""

from fastapi import APIRouter
from starlette.responses import Response

from orchestrator.operate.blobs import PATH, Blobs

HEADERS = {"cache-control": "private, immutable", "x-content-type-options": "nosniff"}


def router(blobs: Blobs) -> APIRouter:
    api = APIRouter(tags=["pipelines"])

    @api.get(PATH + "{name}")
    async def blob(name: str, expires: str = "", signature: str = "") -> Response:
        """A picture that a pipeline made, while its link works."""
        content, media_type = await blobs.from_link(name, expires, signature)
        return Response(content, media_type=media_type, headers=HEADERS)

    return api
