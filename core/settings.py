"""Settings: a TOML file and the environment, the environment wins; read once in `__main__`, then passed down."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SETTINGS_FILE = "SOUNDSTAGE_SETTINGS"


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list that the environment writes as `a,b,c` and TOML as an array."""


class SettingsError(ValueError):
    """The settings as given cannot be used; the message says which name and why, without its value."""


class Settings(BaseSettings):
    """What every service reads. Names are case-insensitive; the environment uses upper case."""

    model_config = SettingsConfigDict(
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # a wrong value may be a secret
    )

    host: str = Field("127.0.0.1", description="Address the service binds.")
    port: int = Field(0, ge=0, le=65535, description="Port the service binds.")
    data_dir: Path = Field(Path("data"), description="Where models, logs, keys and the embedded database live.")
    log_level: str = Field("info", pattern="^(?i:debug|info|warning|error)$", description="Least level logged.")
    log_format: str = Field("json", pattern="^(json|text)$", description="json lines, or text for a person.")
    max_requests: int = Field(2048, ge=1, description="Requests answered at once; one more is a 429.")
    max_body_bytes: int = Field(
        32 << 20, ge=1024, description="Largest request body accepted, in bytes; relayed JSON: 16 MiB."
    )
    max_bodies_bytes: int = Field(
        256 << 20,
        ge=1024,
        description="Bytes of request bodies over 64 KiB that are held at once; one key holds half of it at most. One"
        " more is a 429 where the key holds its half, a 503 where all is held.",
    )
    body_seconds: float = Field(60.0, gt=0, description="Longest that a request's body may take to come.")
    stop_seconds: int = Field(10, ge=1, description="Longest that running requests get at a stop.")
    stop_delay_seconds: float = Field(
        0.0,
        ge=0,
        description="How long a service that got SIGTERM still takes requests while /readyz says no, so that a balancer"
        " has time to send them elsewhere.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        lowered = _LowerToml(settings_cls, toml_file=_file())
        return init_settings, env_settings, lowered

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the file and the environment; `given` wins over both. Raises SettingsError."""
        named = os.environ.get(SETTINGS_FILE)
        if named and not Path(named).is_file():
            raise SettingsError(f"{SETTINGS_FILE} names a file that does not exist: {named}")
        try:
            return cls(**given)
        except ValidationError as exc:
            raise SettingsError("; ".join(map(_complaint, exc.errors()))) from exc
        except ValueError as exc:  # a TOML file that does not parse
            raise SettingsError(f"{_file()}: {exc}") from exc

    def masked(self) -> dict[str, str]:
        """Every setting as text under its environment name, secrets as stars."""
        return {name.upper(): _mask(value) for name, value in self}


class WorkerSettings(Settings):
    """What every worker reads besides: where it registers, and the address it is reached at."""

    orchestrator_url: str | None = Field(None, description="Where to register; a worker without it serves alone.")
    wan_worker_api_key: SecretStr | None = Field(None, description="The worker key, for registering.")
    public_url: str | None = Field(None, description="Address others reach this worker at, if not its own host's.")
    runpod_pod_id: str | None = Field(None, description="Set by RunPod: the address is then the pod's proxy.")

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.wan_worker_api_key is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("HOST is not loopback, so WAN_WORKER_API_KEY must be set")
        return self

    @property
    def worker_key(self) -> str | None:
        return self.wan_worker_api_key.get_secret_value() if self.wan_worker_api_key else None

    def proxied_at(self) -> str | None:
        """Where the world reaches it, on a pod."""
        return f"https://{self.runpod_pod_id}-{self.port}.proxy.runpod.net" if self.runpod_pod_id else None

    def reached_at(self) -> str:
        """PUBLIC_URL, else the pod's proxy address, else the host's own."""
        if self.public_url:
            return self.public_url.rstrip("/")
        if (proxied := self.proxied_at()) is not None:
            return proxied
        host = socket.getfqdn() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class DeviceSettings(WorkerSettings):
    """What a worker reads besides whose models are on a device that other workers may use too."""

    device_lease: Path | None = Field(
        None, description="A folder that the workers of one device share, to use it by turns; empty: it is this one's."
    )
    device_lease_seconds: float = Field(20, gt=0, description="How long a busy worker keeps it while others wait.")
    device_lease_drain_seconds: float = Field(
        300, gt=0, description="What its running requests then get to end; what still runs is cut off."
    )
    device_lease_wait_seconds: float = Field(120, gt=0, description="Longest wait of a request for the device.")


class _LowerToml(TomlConfigSettingsSource):
    """A settings file may write names as the environment does."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return {key.lower(): value for key, value in super()._read_file(file_path).items()}


def _file() -> Path:
    return Path(os.environ.get(SETTINGS_FILE, "soundstage.toml"))


def _complaint(error: Mapping[str, Any]) -> str:
    """The setting's environment name and what is wrong with it; a rule over several settings names them itself."""
    name = ".".join(map(str, error["loc"])).upper()
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _mask(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
