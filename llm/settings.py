"""The chat worker's settings."""

from pathlib import Path

from pydantic import Field, SecretStr

from core.settings import CommaList, DeviceSettings
from llm.catalogue import BUNDLED


class ChatWorkerSettings(DeviceSettings):
    port: int = Field(7861, ge=0, le=65535, description="Port the chat worker binds.")
    llm_models: CommaList = Field((), description="Models to run, by catalogue id; empty: by whether there is a GPU.")
    llm_catalogue: Path = Field(BUNDLED, description="The catalogue of models, a TOML file.")
    vllm_python: Path = Field(Path(".venv-vllm/bin/python"), description="The Python that has vLLM installed.")
    llm_engine_module: str = Field(
        "vllm.entrypoints.openai.api_server", description="The engine program; a fake one speaks the same API."
    )
    llm_max_requests: int = Field(256, ge=1, description="Requests relayed at once; one more is a 429.")
    llm_concurrent: int = Field(8, ge=1, description="/chat, /enhance and /generate answered at once.")
    llm_queue: int = Field(32, ge=0, description="How many more of them may wait; one more is a 429.")
    llm_queue_seconds: float = Field(60, gt=0, description="Longest wait in that queue.")
    llm_max_tokens: int = Field(2048, ge=1, description="Most tokens that /chat, /enhance and /generate may ask for.")
    llm_memory_gb: float | None = Field(
        None, gt=0, description="Memory that engines may hold together, GB; empty: nine tenths of the device's."
    )
    llm_pinned: CommaList = Field((), description="Models, by catalogue id, that never give way to another.")
    llm_sleep_level: int = Field(
        1, ge=1, le=2, description="vLLM's sleep level: 1 keeps the weights in host memory, 2 drops them."
    )
    llm_load_wait_seconds: float = Field(120, gt=0, description="Longest wait of a request for its model's load.")
    llm_load_waiting: int = Field(64, ge=1, description="Requests that may wait for a load; one more is a 429.")
    llm_drain_seconds: float = Field(60, gt=0, description="Longest wait for running requests before an unload.")
    llm_start_seconds: float = Field(900, gt=0, description="An engine not ready by then is started again.")
    llm_repeats_max: int = Field(1024, ge=0, description="Answers kept for who asks again with their key.")
    llm_repeats_mb: int = Field(16, ge=0, description="Most MiB of them.")
    llm_repeats_seconds: float = Field(600, gt=0, description="How long each is kept.")
    supabase_url: str | None = Field(None, description="Where the edge function register-chat-worker is, if it is.")
    supabase_service_role_key: SecretStr | None = Field(None, description="Its service key.")
    supabase_service_key: SecretStr | None = Field(None, description="The same, by its other name.")
    hf_token: SecretStr | None = Field(None, description="Token for gated checkpoints.")

    @property
    def supabase_key(self) -> str | None:
        """The service key, by either name."""
        found = self.supabase_service_role_key or self.supabase_service_key
        return found.get_secret_value() if found else None
