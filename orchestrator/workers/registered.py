"""Servers that an admin registered by URL: any that speaks OpenAI's API. Every orchestrator reads them and asks each
itself whether it is ready; nothing announces them.

A server's own key is sealed, bound to the server's id and address, and opened only to call it: no route gives it out,
no log and no audit entry holds it.
"""

import logging
import re
from typing import Any

import msgspec
from psycopg.types.json import Jsonb
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from core.db.changes import Writer, changing
from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import NotFound, SoundstageError
from core.wire.workers import Ability, Kind, Name, ServerUrl
from orchestrator.operate.seal import Seal
from orchestrator.workers.static import MAX_MODELS, REGISTERED, StaticWorker

log = logging.getLogger(__name__)

PREFIX = REGISTERED


class EngineRegistration(BaseModel):
    """A server by its URL. What is not declared is found out by asking it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$", description="Its worker id is `engine:` and this name.")
    url: ServerUrl = Field(description="With or without /v1.")
    kind: Kind = "chat"
    api_key: SecretStr | None = Field(None, max_length=4096, description="The server's own key; never shown again.")
    abilities: tuple[Ability, ...] = Field((), max_length=10, description="Empty: those whose paths it answers.")
    models: tuple[Name, ...] = Field((), max_length=MAX_MODELS, description="Empty: those that it lists.")
    aliases: dict[Name, Name] = Field({}, max_length=MAX_MODELS, description="Other names for its models.")
    capacity: int = Field(64, ge=1, le=100_000, description="Requests that it takes at once.")
    roles: tuple[Name, ...] = Field((), max_length=16, description="Pools of pipelines that it serves.")

    @field_validator("url")
    @classmethod
    def _plain(cls, url: AnyHttpUrl) -> AnyHttpUrl:
        """A password in an address would be shown with it."""
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("an address without user, query or fragment; a key goes into api_key")
        return url

    @field_validator("api_key")
    @classmethod
    def _one_word(cls, api_key: SecretStr | None) -> SecretStr | None:
        """It stands in a header."""
        if api_key is not None and not re.fullmatch(r"[!-~]*", api_key.get_secret_value()):
            raise ValueError("a key of printable ASCII without blanks")
        return api_key

    @property
    def worker_id(self) -> str:
        return PREFIX + self.name

    def kept(self) -> dict[str, Any]:
        """What the database keeps in plain."""
        return self.model_dump(mode="json", exclude={"name", "api_key"})


class RegisteredEngines:
    """Those in the database. With it away, those that were known go on."""

    def __init__(self, pool: Pool, seal: Seal) -> None:
        self._pool, self._seal = pool, seal
        self._known: list[StaticWorker] = []
        self._silenced: set[str] = set()

    async def register(self, server: EngineRegistration, writer: Writer) -> None:
        """The same name again replaces what was known; without a key in it, no key is known any more."""
        async with changing(self._pool, writer) as connection:
            await connection.execute(
                "insert into engines (id, wanted) values (%s, %s)"
                " on conflict (id) do update set wanted = excluded.wanted",
                (server.name, Jsonb(server.kept())),
            )
            await connection.execute("delete from engine_keys where engine = %s", (server.name,))
            if server.api_key is not None:
                sealed = self._seal.seal(server.api_key.get_secret_value().encode(), _place(server))
                await connection.execute(
                    "insert into engine_keys (engine, sealed) values (%s, %s)", (server.name, sealed)
                )

    async def remove(self, worker_id: str, writer: Writer) -> None:
        """Raises NotFound."""
        async with changing(self._pool, writer) as connection:
            name = worker_id.removeprefix(PREFIX)
            if not (await connection.execute("delete from engines where id = %s", (name,))).rowcount:
                raise NotFound(f"No worker `{worker_id[:100]}` is registered.", code="worker_not_found")

    async def known(self) -> list[StaticWorker]:
        """As the database has them now or, with it away, as they were last known."""
        query = (
            "select e.id, e.wanted, k.sealed from engines e left join engine_keys k on k.engine = e.id order by e.id"
        )
        try:
            async with self._pool.connection(timeout=2) as connection:
                rows = await (await connection.execute(query)).fetchall()
        except DATABASE_AWAY as exc:
            log.warning("registered servers not read; going on with those known", extra={"reason": exc})
            return self._known
        self._known = [worker for row in rows if (worker := self._read(row)) is not None]
        return self._known

    def _read(self, row: dict[str, Any]) -> StaticWorker | None:
        """None where this orchestrator has another key than the one that sealed the server's, or is another version
        than the one that wrote it."""
        try:
            server = EngineRegistration.model_validate({**row["wanted"], "name": row["id"]})
            key = self._seal.open(bytes(row["sealed"]), _place(server)).decode() if row["sealed"] else None
        except ValidationError as exc:
            self._unused(row["id"], f"not understood: {exc.error_count()} errors")
            return None
        except SoundstageError:
            self._unused(row["id"], "its key was sealed with another key")
            return None
        self._silenced.discard(server.name)
        return StaticWorker(
            url=str(server.url),
            kind=server.kind,
            key=key,
            roles=server.roles,
            abilities=server.abilities,
            aliases=tuple(server.aliases.items()),
            models=server.models,
            capacity=server.capacity,
            name=server.name,
        )

    def _unused(self, name: str, why: str) -> None:
        """Said once."""
        if name not in self._silenced:
            log.error("a registered server is not used", extra={"engine": name, "reason": why})
        self._silenced.add(name)


def _place(server: EngineRegistration) -> str:
    """A key does not open for another address, whoever writes it into the table."""
    return msgspec.json.encode(["engine", server.name, str(server.url)]).decode()
