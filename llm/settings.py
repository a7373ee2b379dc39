"""The chat worker's settings."""

from pathlib import Path

from pydantic import Field, SecretStr

from core.settings import CommaList, WorkerSettings
from llm.catalogue import BUNDLED


class ChatWorkerSettings(WorkerSettings):
    port: int = Field(7861, ge=0, le=65535, description="Port the chat worker binds.")
    llm_models: CommaList = Field((), description="Models to run, by catalogue id; empty: by whether there is a GPU.")
    llm_catalogue: Path = Field(BUNDLED, description="The catalogue of models, a TOML file.")
    vllm_python: Path = Field(Path(".venv-vllm/bin/python"), description="The Python that has vLLM installed.")
    llm_engine_module: str = Field(
        "vllm.entrypoints.openai.api_server", description="The engine program; a fake one speaks the same API."
    )
    llm_max_requests: int = Field(256, ge=1, description="Requests relayed at once; one more is a 429.")
    llm_start_seconds: float = Field(900, gt=0, description="An engine not ready by then is started again.")
    hf_token: SecretStr | None = Field(None, description="Token for gated checkpoints.")
