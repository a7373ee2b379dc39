"""The pictures of a stream, counted as it passes: what an engine draws is paid, however the call for it ends."""

import re

MOST = 10**6  # of one call; a worker refuses far fewer
_COMPLETED = re.compile(rb'(?<!\\)"image_(?:generation|edit)\.completed"')
_FAILED = re.compile(rb'(?<!\\)"type":\s*"error"')
_LONGEST = 40  # bytes of the longest of them


def counted(asked: int) -> int:
    """How many are set aside: what is no number of pictures is the worker's to refuse."""
    return min(max(1, asked), MOST)


class PictureEvents:
    """How many pictures a stream has completed, and whether it told of an error."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = False
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """What is cut between two chunks is found in the second look, and nothing twice."""
        seen = self._tail + chunk
        ends = [found.end() for found in _COMPLETED.finditer(seen)]
        self.completed += len(ends)
        self.failed = self.failed or bool(_FAILED.search(seen))
        self._tail = seen[max(len(seen) - _LONGEST, ends[-1] if ends else 0) :]
