"""The orchestrator's settings."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from core.http.relay import Timeouts
from core.settings import CommaList, Settings
from core.wire.workers import Ability, Strategy

JOB_TYPES = Path(__file__).parent / "legacy" / "enhance" / "job_types.toml"
DIVIDED = (
    *("max_requests", "max_bodies_bytes", "queue_concurrency", "queue_max", "interface_profile_queue_max"),
    *("interface_chat1to1_queue_max", "interface_shorts_queue_max", "interface_scenes_queue_max"),
)
"""What PROCESSES share."""
_QUEUE = "The same as QUEUE_MAX, for the image workers of this pool."
_POOL = "Static workers of the pool, besides those that register themselves."


class RouteLimits(BaseModel):
    """What differs for a route; what is left out is as for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect: float | None = Field(None, gt=0)
    first_byte: float | None = Field(None, gt=0)
    idle: float | None = Field(None, gt=0)
    total: float | None = Field(None, gt=0)


class OrchestratorSettings(Settings):
    port: int = Field(8000, ge=0, le=65535, description="Port the orchestrator binds.")
    processes: int = Field(
        1, ge=1, le=256, description="Processes that serve the port, each an orchestrator with its part of the limits."
    )
    database_url: SecretStr | None = Field(None, description="Postgres; empty: an embedded one in DATA_DIR.")
    wan_worker_api_key: SecretStr | None = Field(
        None, description="The worker key: workers register with it and are called with it."
    )
    llm_url: str | None = Field(None, description="An OpenAI-compatible server to use as a chat worker.")
    llm_api_key: SecretStr | None = Field(None, description="The key of LLM_URL, where it wants one.")
    llm_model: str | None = Field(
        None, description="LLM_URL's model for qwen_instruct and qwen_base; empty: its first."
    )
    llm_abilities: CommaList = Field(
        (),
        description="What LLM_URL can do, of chat, completions, responses, embeddings, tokenize, moderations; empty:"
        " whatever paths it is found to have.",
    )
    guard_url: str | None = Field(None, description="An OpenAI-compatible server of guard models, as a worker.")
    guard_api_key: SecretStr | None = Field(None, description="The key of GUARD_URL, where it wants one.")
    guard_model: str = Field(
        "", description="A served model whose /v1/moderations is a second opinion on every judged request."
    )
    guard_recipe: str = Field("", description="The same by a recipe of a model that answers safe or unsafe.")
    guard_seconds: float = Field(5.0, gt=0, description="Longest wait for the guard; after it the answer is no.")
    image_worker_urls: CommaList = Field((), description="Static image workers for /v1/images/*.")
    interface_selfie_feature_worker_urls: CommaList = Field((), description=_POOL)
    interface_profile_worker_urls: CommaList = Field((), description=_POOL)
    interface_chat1to1_worker_urls: CommaList = Field((), description=_POOL)
    interface_shorts_worker_urls: CommaList = Field((), description=_POOL)
    interface_scenes_worker_urls: CommaList = Field((), description=_POOL)
    media_domains: CommaList = Field(
        (), description="Domains from which the orchestrator fetches pictures that messages name; empty: none."
    )
    routing_chat: Strategy = Field(
        "least_outstanding",
        description="Which chat worker takes a request; affinity sends one conversation to one prefix cache.",
    )
    routing_image: Strategy = Field("least_outstanding", description="Which image worker takes a request.")
    routing_selfie: Strategy = Field("least_outstanding", description="Which selfie worker takes a request.")
    routing_pools: dict[str, Strategy] = Field(
        {},
        description="Other than that for single pools, by a pipelines' pool or a model, as JSON or a TOML table:"
        ' `{"chat1to1": "round_robin", "org/big-7b": "affinity"}`.',
    )
    queue_max: int = Field(512, ge=0, description="Requests that wait for one pool of workers; 0: none waits.")
    queue_seconds: float = Field(30.0, gt=0, description="Longest wait for a place at a worker.")
    interface_profile_queue_max: int | None = Field(None, ge=0, description=_QUEUE)
    interface_chat1to1_queue_max: int | None = Field(None, ge=0, description=_QUEUE)
    interface_shorts_queue_max: int | None = Field(None, ge=0, description=_QUEUE)
    interface_scenes_queue_max: int | None = Field(None, ge=0, description=_QUEUE)
    interface_retry_after_cap_ms: int = Field(30_000, ge=1000, description="Longest Retry-After given, milliseconds.")
    ready_needs: CommaList = Field(("chat",), description="Kinds of worker without which /readyz says no.")
    proof_mismatch: Literal["refuse", "mark"] = Field(
        "refuse", description="What becomes of an answer whose worker ran other messages than were sent."
    )
    database_seconds: float = Field(
        10.0,
        gt=0,
        description="Longest wait for the database to answer a statement. What needs one that hangs gets a 503.",
    )
    policy_stale_seconds: float = Field(
        900.0, gt=0, description="With the database away longer than this, the policy that is known holds no more: 422."
    )
    prove_tokens: bool = Field(
        False,
        description="Prove the prompt's tokens of every relayed answer, as `X-Prove: tokens` asks for one: the answer"
        " is then read and written again, not passed on byte for byte.",
    )
    runs_days: int = Field(
        365, ge=0, le=36_500, description="Days that run records are kept; 0: they are kept for ever."
    )
    lease_seconds: float = Field(15.0, gt=0, description="A worker not heard of for this long is not routed to.")
    probe_seconds: float = Field(
        2.0, gt=0, description="How often workers of static lists, and those registered by URL, are asked for models."
    )
    ready_probe_seconds: float = Field(
        5.0, ge=0, description="How often workers that announce themselves are asked whether they are ready; 0: never."
    )
    probe_timeout_seconds: float = Field(5.0, gt=0, description="Longest wait for the answer to such a question.")
    connect_seconds: float = Field(5.0, gt=0, description="Longest wait for a connection to a worker.")
    first_byte_seconds: float = Field(600.0, gt=0, description="Longest wait for the first byte of an answer.")
    idle_seconds: float = Field(120.0, gt=0, description="Longest gap between two pieces of an answer.")
    total_seconds: float = Field(3600.0, gt=0, description="Longest that one relayed answer may take.")
    route_limits: dict[str, RouteLimits] = Field(
        {},
        description="Other limits for single routes, in seconds, as JSON or a TOML table:"
        ' `{"/v1/embeddings": {"connect": 1, "first_byte": 30, "idle": 10, "total": 60}}`.',
    )
    pipeline_seconds: float = Field(900.0, gt=0, description="Longest a pipeline may take.")
    warm_recipes: bool = Field(
        True,
        description="Ask each chat engine that comes once for the opening of every pipeline's recipes, for one token:"
        " its prefix cache holds them, and grammars are built, before somebody waits.",
    )
    durable_jobs: bool = Field(
        True,
        description="Keep runs of pipelines in the database: they outlive this process, and may work in the background;"
        " false: a run lives as long as its caller waits.",
    )
    job_seconds: float = Field(86_400.0, gt=0, description="Longest a background job may wait and run.")
    jobs_days: float = Field(7.0, gt=0, le=36_500, description="Days that ended jobs are kept, with what was asked.")
    jobs_at_once: int = Field(
        64, ge=1, le=1024, description="Most background jobs of a pool at work at once, whatever its workers declare."
    )
    jobs_queue_max: int = Field(5000, ge=1, description="Background jobs of one tenant that have not ended, at most.")
    jobs_grace_seconds: float = Field(
        5.0, gt=0, description="After an orchestrator was not there for so long, others take up its runs."
    )
    stream_grace_seconds: float = Field(
        5.0, ge=0, description="How long a stream's run goes on when its last client left; one may come back."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="What webhooks' secrets are derived from, the same on every orchestrator; empty: DATA_DIR's."
    )
    profile_strength_max: float = Field(
        0.75, gt=0, le=1, description="Farthest that an avatar drawn from a selfie may go from it."
    )
    chat_max_tokens: int = Field(
        2048, ge=1, description="Most tokens that /chat, /enhance and /generate may ask for in their pure form."
    )
    conversation_tokens: int = Field(3072, ge=64, description="Most tokens of a conversation that are remembered.")
    conversation_hours: float = Field(168, gt=0, description="A conversation without a turn for so long is forgotten.")
    conversation_wait_seconds: float = Field(
        60, gt=0, description="Longest wait for a conversation in which another request is being answered."
    )
    job_types: Path = Field(
        JOB_TYPES, description="Each job type's recipe, model, target and limits: a TOML file like the one that ships."
    )
    wan_tokenizer: Path | None = Field(
        None, description="tokenizer.json of WAN's text encoder; empty: its tokens are estimated, on the high side."
    )
    queue_name: str = Field("", description="Redis list or stream that jobs come from; empty: none are taken.")
    queue_kind: Literal["list", "stream"] = Field("list", description="What QUEUE_NAME is.")
    queue_end: Literal["left", "right"] = Field(
        "left",
        description="The end of a list that jobs are taken from: left where RPUSH fills it, right where LPUSH does.",
    )
    queue_url: SecretStr | None = Field(None, description="Its Redis, redis:// or rediss:// (TLS).")
    upstash_redis_rest_url: str | None = Field(None, description="Its Redis, as an Upstash database over REST.")
    upstash_redis_rest_token: SecretStr | None = Field(None, description="The token of UPSTASH_REDIS_REST_URL.")
    queue_api_key: SecretStr | None = Field(
        None, description="The key whose tenant and tier hold for queued jobs; empty: the local key."
    )
    queue_poll_seconds: float = Field(3.0, gt=0, description="How often an empty queue is looked at.")
    queue_concurrency: int = Field(8, ge=1, le=256, description="Jobs run at once by one orchestrator.")
    queue_visibility_seconds: float = Field(
        60.0, gt=0, description="A job not heard of for so long is given to another; a running one is renewed."
    )
    queue_tries: int = Field(3, ge=1, description="Tries before a job goes to the dead-letter list.")
    queue_dead_letter: str = Field("", description="The dead-letter list; empty: QUEUE_NAME:dead.")
    queue_result_key: str = Field(
        "", description="Key for a job's result, {id} in it stands for the job; empty: QUEUE_NAME:result:{id}."
    )
    queue_result_seconds: int = Field(86_400, ge=1, description="How long results are kept there.")
    queue_drain_seconds: float = Field(10.0, gt=0, description="At a stop, longest wait for running jobs.")
    default_image_size: str = Field("1024x1024", pattern=r"^\d+x\d+$", description="Size of a pipeline's picture.")
    pipeline_modules: CommaList = Field((), description="Importable modules that are pipelines of the owner's own.")
    blob_url: str | None = Field(
        None, pattern=r"^s3://[^/]+", description="s3://BUCKET/PREFIX for pipelines' pictures; empty: DATA_DIR/blobs."
    )
    blob_endpoint: str | None = Field(
        None, description="Where the bucket is, if not at AWS: https://PROJECT.supabase.co/storage/v1/s3 at Supabase."
    )
    blob_region: str = Field("us-east-1", description="The bucket's region.")
    blob_access_key_id: str | None = Field(None, description="The bucket's access key.")
    blob_secret_access_key: SecretStr | None = Field(None, description="Its secret.")
    blob_hours: float = Field(24.0, gt=0, description="How long pipelines' pictures are kept.")
    blob_link_seconds: float = Field(3600.0, gt=0, description="How long a link to one works.")
    blob_max_mb: int = Field(20_480, ge=1, description="Most MiB of pictures kept; the oldest go first.")

    @field_validator("llm_abilities")
    @classmethod
    def _known_abilities(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(get_args(Ability))):
            raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(get_args(Ability))}")
        return names

    @model_validator(mode="after")
    def _enough_for_all_processes(self) -> Self:
        jobs = self.queue_concurrency if self.queue_name else self.processes
        if self.processes > min(self.max_requests, jobs, self.max_bodies_bytes // self.max_body_bytes):
            raise ValueError(
                "PROCESSES: each needs one of MAX_REQUESTS, one of QUEUE_CONCURRENCY and MAX_BODY_BYTES of"
                " MAX_BODIES_BYTES"
            )
        return self

    def part_of(self, process: int) -> dict[str, str]:
        """What one of the processes may hold, by the settings' names: all together what is set."""
        return {
            name.upper(): str(whole // self.processes + (process < whole % self.processes))
            for name in DIVIDED
            if (whole := getattr(self, name)) is not None
        }

    def timeouts(self) -> Timeouts:
        """The limits of every relayed request."""
        return Timeouts(
            self.connect_seconds, self.first_byte_seconds, self.idle_seconds, self.body_seconds, self.total_seconds
        )

    def timeouts_of_routes(self) -> dict[str, Timeouts]:
        """Those of single routes, by their paths."""
        return {
            path: replace(self.timeouts(), **limits.model_dump(exclude_none=True))
            for path, limits in self.route_limits.items()
        }
