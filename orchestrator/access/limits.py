"""How much a key or a tenant may ask for: the values, and what a request takes of them. Pure."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import Overloaded

Measure = Literal["requests", "tokens", "images", "budget"]
MINUTE = 60
DAY = 86_400
CHUNK = 50
"""An orchestrator takes a fiftieth of a limit at once, so that it asks the database seldom. What it took and did not
give out when a period ends, or when it dies, is lost to the others: at most that, for each orchestrator."""


class Limits(BaseModel):
    """None: as much as one likes. A budget is of tokens, prompt and answer together, for each period of days."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(default=None, ge=1, le=10**12, description="Requests in a minute.")
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12, description="Tokens in a minute.")
    images_per_minute: int | None = Field(default=None, ge=1, le=10**12, description="Pictures in a minute.")
    concurrent: int | None = Field(default=None, ge=1, le=10**6, description="Requests at once.")
    budget_tokens: int | None = Field(default=None, ge=0, le=10**15, description="Tokens in each period.")
    budget_days: int | None = Field(default=None, ge=1, le=366, description="Days of that period.")

    @model_validator(mode="after")
    def _budget_whole(self) -> "Limits":
        if (self.budget_tokens is None) != (self.budget_days is None):
            raise ValueError("budget_tokens and budget_days go together")
        return self

    def __bool__(self) -> bool:
        return self != _NONE

    def quotas(self) -> Iterator["Quota"]:
        """What is counted over time."""
        if self.requests_per_minute is not None:
            yield Quota("requests", self.requests_per_minute, MINUTE)
        if self.tokens_per_minute is not None:
            yield Quota("tokens", self.tokens_per_minute, MINUTE)
        if self.images_per_minute is not None:
            yield Quota("images", self.images_per_minute, MINUTE)
        if self.budget_tokens is not None and self.budget_days is not None:
            yield Quota("budget", self.budget_tokens, self.budget_days * DAY)


class Quota(NamedTuple):
    """So much of a measure in each period, in seconds."""

    measure: Measure
    most: int
    seconds: int

    def chunk(self, amount: int) -> int:
        """How much to take at once, where `amount` is needed."""
        return max(amount, min(self.most // CHUNK, 10**9), 1)

    def is_one_period(self, end: float, other: float) -> bool:
        """Whether these two are the end of one period: each is known only as well as the database answered in time."""
        return abs(end - other) < self.seconds / 2

    def headers(self, left: int, ends_in: float) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*`, where so much is left for so many seconds."""
        name = self.measure.encode()
        return [
            (b"x-ratelimit-limit-" + name, b"%d" % self.most),
            (b"x-ratelimit-remaining-" + name, b"%d" % left),
            (b"x-ratelimit-reset-" + name, b"%.0fs" % max(0.0, ends_in)),
        ]


class Needs(NamedTuple):
    """What a request takes at most; what it did not need is given back when it ends."""

    requests: int = 1
    tokens: int = 0
    images: int = 0

    def of(self, measure: Measure) -> int:
        return self.tokens if measure == "budget" else int(getattr(self, measure))


class RateLimited(Overloaded):
    """429 with the limit that stands in the way, what is left of it, and when its period ends."""

    def __init__(self, quota: Quota, whose: str, left: int, ends_in: float) -> None:
        what = "tokens of the budget" if quota.measure == "budget" else quota.measure
        super().__init__(
            f"The limit of {quota.most} {what} in {_spoken(quota.seconds)} of this {whose} is reached.",
            code="budget_exceeded" if quota.measure == "budget" else "rate_limit_exceeded",
            retry_after=max(1.0, ends_in),
        )
        self._shown = quota.headers(left, ends_in)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), *self._shown]


class TooManyAtOnce(Overloaded):
    def __init__(self, most: int, whose: str) -> None:
        super().__init__(
            f"This {whose} may have {most} requests at once.", code="concurrency_limit_exceeded", retry_after=1
        )


def _spoken(seconds: int) -> str:
    return "a minute" if seconds == MINUTE else f"{seconds // DAY} days"


_NONE = Limits()
NO_LIMITS = _NONE
