"""Which workers can stand in for one another: those that answer for one model name with one ability, and have one role.

Groups of the same workers, strategy and role are one pool, whatever names lead to it.
"""

import itertools
from collections.abc import Callable, Iterable

from core.wire.workers import Ability, Strategy
from orchestrator.workers.rules import Rules
from orchestrator.workers.worker import Ask, Pool, Worker

_Alike = tuple[Strategy, str | None, tuple[str, ...]]
_NOWHERE: _Alike = ("round_robin", None, ())


class Groups:
    """The pools of all `workers`, made anew by `rebuild` when it is `stale`: who is there has changed. `refresh` notes
    a worker's load in its pools."""

    def __init__(
        self, rules: Rules, workers: Callable[[], Iterable[Worker]], refresh: Callable[[Worker], None]
    ) -> None:
        self._rules, self._workers, self._refresh = rules, workers, refresh
        self.stale = False
        self._able: dict[tuple[str | None, Ability], list[Worker]] = {}
        self._named: dict[tuple[str | None, Ability, str | None], Pool] = {}
        self._pools: dict[_Alike, Pool] = {}

    def pools(self) -> list[Pool]:
        return list(self._pools.values())

    def rebuild(self) -> None:
        for pool in self._pools.values():
            for worker in pool.members:
                worker.seats.clear()  # of one that is gone, too: its place may still be given back
        self._able, self._named, self._pools, self.stale = {}, {}, {}, False
        for worker in sorted(self._workers(), key=lambda each: each.id):
            for served in worker.announcement.models:
                for name, ability in itertools.product((None, served.id, *served.aliases), served.abilities):
                    able = self._able.setdefault((name, ability), [])
                    if not able or able[-1] is not worker:
                        able.append(worker)

    def pool(self, ask: Ask) -> Pool | None:
        """The workers known for this, usable or not; of those with its role, where one of them is usable."""
        if ask.role is not None:
            of_role = self._pool(ask.model, ask.ability, ask.role)
            if of_role is not None and of_role.places:
                return of_role
        return self._pool(ask.model, ask.ability, None)

    def nowhere(self) -> Pool:
        """For who waits for a model whose last worker went: one may come before their time is up."""
        return self._pools.setdefault(_NOWHERE, Pool((), "round_robin", 0))

    def _pool(self, model: str | None, ability: Ability, role: str | None) -> Pool | None:
        found = self._named.get((model, ability, role))
        if found is not None:
            return found
        members = self._able.get((model, ability), [])
        if role is not None:
            members = [worker for worker in members if role in worker.announcement.roles]
        if not members:
            return None  # not remembered: callers could fill the memory with names
        alike = self._strategy(members, model, role), role, tuple(worker.id for worker in members)
        if alike not in self._pools:
            most = self._rules.role_queue_max.get(role or "", self._rules.queue_max)
            self._pools[alike] = Pool(members, alike[0], most)
            for worker in members:
                self._refresh(worker)
        self._named[model, ability, role] = self._pools[alike]
        return self._pools[alike]

    def _strategy(self, members: list[Worker], model: str | None, role: str | None) -> Strategy:
        """That of the role, else of the model by any of its names, else of the kind of worker."""
        models = (m for w in members for m in w.announcement.models if model in (m.id, *m.aliases))
        own = self._rules.of_pools
        named = (own.get(name) for name in (role, model, *(m.id for m in models)) if name) if own else ()
        of_kind = self._rules.routing.get(members[0].announcement.kind, "least_outstanding")
        return next(filter(None, named), of_kind)
