"""What each tenant was served, for the scheduler's fairness between them. Pure.

A tenant with nothing here saves nothing up: it comes back at the virtual clock, the most that any
tenant was served, so a burst after an idle hour gets its fair share and no more. The clock moves
with every step, so newcomers, however many, cannot hold an older request back for ever.
"""

from collections.abc import Iterable

from image.scheduler import WEIGHT, Candidate


class Shares:
    def __init__(self) -> None:
        self.served: dict[str, int] = {}  # weighted tokens, of the tenants that are here
        self._clock = 0

    def here(self, candidates: Iterable[Candidate]) -> None:
        """Take in who came and who has gone."""
        tenants = {c.tenant for c in candidates}
        self.served = {t: self.served.get(t, self._clock) for t in tenants}

    def charge(self, stepped: Iterable[Candidate]) -> None:
        """Each stepped once."""
        for c in stepped:
            tokens = int(c.tokens * c.rows * WEIGHT[c.priority])
            self.served[c.tenant] = self.served.get(c.tenant, self._clock) + tokens
            self._clock = max(self._clock, self.served[c.tenant])
