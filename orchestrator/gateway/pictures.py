"""Relayed pictures under limits: what an engine draws is paid, however the call for it ends."""

import re

from starlette.types import Message, Send

from core.errors import UpstreamTimeout
from orchestrator.access.limits import Needs
from orchestrator.access.quotas import Entry

MOST = 10**6  # of one call; a worker refuses far fewer
_COMPLETED = re.compile(rb'(?<!\\)"image_(?:generation|edit)\.completed"')
_FAILED = re.compile(rb'(?<!\\)"type":\s*"error"')
_LONGEST = 40  # bytes of the longest of them


def counted(asked: int) -> int:
    """How many are set aside: what is no number of pictures is the worker's to refuse."""
    return min(max(1, asked), MOST)


class PictureMeter:
    """`send` that adds the limits' headers, and counts the pictures of a relayed answer as it passes."""

    def __init__(self, send: Send, entry: Entry, asked: int) -> None:
        self._send = send
        self._entry = entry
        self._asked = asked
        self._status = 0
        self._stream = False
        self._tail = b""
        self._completed = 0
        self._failed = False
        self.left = False
        """Nobody waited for the end of what a worker had begun."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._stream = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            message["headers"] = [*message["headers"], *self._entry.headers()]
        elif self._stream:
            self._read(message.get("body", b""))
        await self._send(message)

    def _read(self, chunk: bytes) -> None:
        """What is cut between two chunks is found in the second look, and nothing twice."""
        seen = self._tail + chunk
        ends = [found.end() for found in _COMPLETED.finditer(seen)]
        self._completed += len(ends)
        self._failed = self._failed or bool(_FAILED.search(seen))
        self._tail = seen[max(len(seen) - _LONGEST, ends[-1] if ends else 0) :]

    def used(self, *, broken: bool) -> Needs:
        """All that were asked for where the answer is whole, or where nobody waited for the end of what a worker had
        begun; of a stream that the worker broke, or that tells of an error, those that came."""
        if self.left or self._status == UpstreamTimeout.status:
            return Needs(images=self._asked)
        if not 200 <= self._status < 400:
            return Needs()
        came = min(self._completed, self._asked)
        return Needs(images=came if self._stream and (broken or self._failed) else self._asked)
