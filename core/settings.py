"""Environment configuration: everything read from outside the process, in one frozen object."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.workspace import Workspace


class Settings(BaseSettings):
    """What the environment decides. Every field reads `VITRINE_<NAME>`; secrets never print."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_", frozen=True, extra="ignore", populate_by_name=True)

    var_dir: Path = Field(Path("var"), description="Folder under which every dataset keeps its workspace.")
    dataset: str = Field(
        "world", pattern=r"^[a-z][a-z0-9_]*$", description="Name of the workspace to work in: `var_dir/dataset`."
    )
    redis_url: SecretStr | None = Field(
        None, description="A team's own Redis, `redis://:password@host:port/db`; unset starts the embedded server."
    )
    redis_port: int = Field(
        6399,
        ge=1024,
        le=65535,
        description="Preferred loopback port of the embedded Redis; a free one is taken if busy.",
    )
    mlflow_tracking_uri: str | None = Field(
        None, description="A team's own MLflow server; unset keeps runs in SQLite inside the workspace."
    )
    clock: Literal["auto", "wall"] = Field(
        "auto", description="auto anchors time at the end of simulated and imported data; wall never does."
    )
    num_threads: int = Field(2, ge=1, description="Threads for DuckDB, torch and FAISS, each.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where networks train; auto takes a GPU where there is one. Serving stays on the CPU."
    )
    duckdb_memory: str = Field("3GB", description="DuckDB memory limit per process, such as 3GB.")
    host: str = Field("127.0.0.1", description="Address the server binds; another than loopback needs API keys.")
    port: int = Field(8000, ge=1, le=65535, description="Port the server binds.")
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        description="Admin keys that clients may send as X-API-Key, as a JSON list, beside those of `serving keys`.",
    )
    key_rate: float = Field(
        200.0, ge=0, le=1e6, description="Requests per second of a key without a rate of its own; 0 is no limit."
    )
    body_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest wait for the body of a request, in seconds; then 408."
    )
    answer_seconds: float = Field(
        15.0, gt=0, le=600, description="Longest wait for an answer once the body is there, in seconds; then 503."
    )
    feature_seconds: float = Field(
        0.5, gt=0, le=60, description="Longest wait of a feed for one answer of the feature store, in seconds."
    )
    bundle_key: str | None = Field(
        None, description="Public key, as in signing.pub, that bundles must be signed with; unset: the workspace's."
    )
    cursor_key: SecretStr | None = Field(
        None, description="Key that signs cursors, at least 32 bytes; unset makes one per workspace."
    )
    funnel_spec: Path | None = Field(
        None,
        description="Funnel spec (YAML) to serve with, or a folder of one per surface; unset uses serving/funnel.yaml.",
    )
    feature_log_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of rankings whose features are kept for `make skew`; 0 keeps none.",
    )
    otel_traces_exporter: Literal["none", "otlp", "console"] = Field(
        "none",
        validation_alias="OTEL_TRACES_EXPORTER",
        description="Where traces go; the SDK reads the other OTEL_ variables. Stands for itself, without VITRINE_.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines as JSON or for people; auto is for people where stderr is a terminal."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")

    @cached_property
    def workspace(self) -> Workspace:
        """Paths of the dataset's workspace."""
        return Workspace(self.var_dir.resolve() / self.dataset)
