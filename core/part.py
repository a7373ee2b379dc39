"""What one capability gives to an application: routes, background tasks, and what is open while it serves."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from core.service import Readiness, always_ready
from core.watchers import Watchers


@dataclass(kw_only=True)
class Part:
    """Nothing of it runs before it is entered.

    `resources` are entered in their order before anything starts; `first` puts into the database what must be there;
    `ready` says whether it can serve; `watchers` are background tasks by name, begun when all parts are entered.
    """

    routers: Sequence[APIRouter] = ()
    resources: Sequence[AbstractAsyncContextManager[object]] = ()
    first: Sequence[Callable[[], Awaitable[object]]] = ()
    ready: Callable[[], Awaitable[Readiness]] = always_ready
    watchers: Mapping[str, Callable[[], Coroutine[Any, Any, object]]] = field(default_factory=dict)

    def watch(self, watchers: Watchers) -> None:
        """Start the background tasks."""
        for name, work in self.watchers.items():
            watchers.start(name, work())

    async def idle(self) -> None:
        """Before a stop: returns when nothing runs here that must not be left."""
