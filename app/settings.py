"""Settings of the API and of the workers, read once from ``STILLHOUSE_*`` environment variables.

Everything has a default that works on a laptop (the embedded mode: SQLite, a folder, a queue without a
server). A cluster sets three URLs: ``STILLHOUSE_DATABASE_URL``, ``STILLHOUSE_OBJECT_STORE_URL`` and
``STILLHOUSE_BROKER_URL``. Sizes are bytes, durations are seconds unless the name says otherwise.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PLACEHOLDER_SECRETS = frozenset(
    {
        "change-me",
        "change_me",
        "changeme",
        "changethis",
        "hf_xxx",
        "password",
        "placeholder",
        "replace-me",
        "replaceme",
        "secret",
        "todo",
        "your-token",
    }
)


class Settings(BaseSettings):
    # An empty variable is as good as an absent one, so that a file can name them all; `none` stands for None.
    model_config = SettingsConfigDict(
        env_prefix="STILLHOUSE_", extra="ignore", frozen=True, env_ignore_empty=True, env_parse_none_str="none"
    )

    home: Path = Path("~/.stillhouse")
    database_url: str = ""
    object_store_url: str = ""
    broker_url: str = "filesystem://"
    # Local folders from which teachers may be read, separated like PATH in the environment.
    teacher_dirs: Annotated[list[Path], NoDecode] = Field(default_factory=list)
    hub_endpoint: str = "https://huggingface.co"
    hub_token: SecretStr | None = None

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # Whose X-Forwarded-For and -Proto are believed, for the log: addresses and networks, separated by commas.
    trusted_proxies: str = "127.0.0.1,::1"
    # Names by which the embedded mode may be called on loopback, beside localhost, separated by commas: where a proxy
    # on the same machine passes on the name that its clients use.
    allowed_hosts: str = ""
    max_upload_bytes: int = Field(default=2 * 1024**3, gt=0)
    idempotency_hours: float = Field(default=24.0, gt=0)
    # Clients to which an API process streams events at once: each holds a connection, so a file descriptor.
    max_event_listeners: int = Field(default=500, ge=1)
    # How often a process that streams events looks for new ones.
    event_poll_seconds: float = Field(default=0.5, gt=0)
    # A stream on which nothing happens sends a comment, so that no proxy on the way takes it for dead.
    event_keep_alive_seconds: float = Field(default=15.0, gt=0)

    lease_seconds: float = Field(default=30.0, gt=0)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    sweep_seconds: float = Field(default=5.0, gt=0)
    # Claims in a row that may end without a new checkpoint before the work is given up.
    max_attempts: int = Field(default=3, ge=1)
    # How long objects stay that no row names any more: a worker whose lease was lost has stopped writing by then.
    cleanup_delay_seconds: float = Field(default=120.0, gt=0)
    # From here on None keeps for ever. The checkpoints of a failed job, from which a retry goes on:
    checkpoint_retention_days: float | None = Field(default=7.0, gt=0)
    # Tuned teachers, teacher outputs and projections, counted from their last use:
    cache_retention_days: float | None = Field(default=30.0, gt=0)
    # Jobs that are over, with their students:
    job_retention_days: float | None = Field(default=None, gt=0)

    # None: 90 % of the container's (or the machine's) memory, of a small one less (worker/machine.py).
    engine_memory_limit_bytes: int | None = Field(default=None, gt=0)
    # None: all cores that the worker may use.
    engine_threads: int | None = Field(default=None, ge=1)
    # auto: on a GPU where there is one, else on the processor. With cuda a worker that finds none runs no job there:
    # it ends, for whatever started it to start it anew.
    engine_device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    # How long a process that was told to stop may take: a worker to save a checkpoint and hand its work back, the
    # API to finish its answers, the scheduler its sweep. Raise it together with the grace period of whatever stops
    # the process.
    shutdown_seconds: float = Field(default=17.0, gt=0)
    work_dir: Path = Path()

    # Where workers and the scheduler answer GET /metrics; None: nowhere. The API has it as a route.
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    # Traces go there by OTLP over HTTP, such as http://collector:4318; empty: no tracing.
    otlp_endpoint: str = ""
    log_format: str = Field(default="auto", pattern="^(auto|json|console)$")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")

    @field_validator("home", "work_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value if value == Path() else value.expanduser().absolute()

    @field_validator("teacher_dirs", mode="before")
    @classmethod
    def _split_teacher_dirs(cls, value: object) -> object:
        if value is None:
            return []
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("otlp_endpoint", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return "" if value is None else value

    @field_validator("teacher_dirs", mode="after")
    @classmethod
    def _absolute_teacher_dirs(cls, value: list[Path]) -> list[Path]:
        return [path.expanduser().absolute() for path in value]

    @field_validator("database_url", mode="after")
    @classmethod
    def _name_the_driver(cls, value: str) -> str:
        for scheme in ("postgres://", "postgresql://"):
            if value.startswith(scheme):
                return "postgresql+psycopg://" + value.removeprefix(scheme)
        if value and not value.startswith(("postgresql+psycopg://", "sqlite:///")):
            raise ValueError(
                "STILLHOUSE_DATABASE_URL has to start with postgresql:// or sqlite:///, "
                f"not with {value.split(':', 1)[0]!r}"
            )
        return value

    @field_validator("object_store_url", mode="after")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value and not value.startswith(("file:///", "s3://", "gs://", "az://")):
            raise ValueError(
                "STILLHOUSE_OBJECT_STORE_URL has to start with file:///, s3://, gs:// or az://, "
                f"not with {value.split(':', 1)[0]!r}"
            )
        return value

    @field_validator("broker_url", mode="after")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        if not value.startswith(("filesystem://", "redis://", "rediss://", "redis+socket://")):
            raise ValueError(
                "STILLHOUSE_BROKER_URL has to start with filesystem:// or redis://, "
                f"not with {value.split(':', 1)[0]!r}"
            )
        return value

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        # The model is frozen for its users; the defaults that hang on `home` are filled in here.
        filled = {
            "home": self.home.expanduser().absolute(),
            "database_url": self.database_url or f"sqlite:///{self.home.expanduser().absolute()}/stillhouse.db",
            "object_store_url": self.object_store_url or (self.home.expanduser().absolute() / "objects").as_uri(),
            "work_dir": self.home.expanduser().absolute() / "work" if self.work_dir == Path() else self.work_dir,
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"STILLHOUSE_HEARTBEAT_SECONDS is {self.heartbeat_seconds:g}, STILLHOUSE_LEASE_SECONDS "
                f"{self.lease_seconds:g}: a lease has to outlast at least two heartbeats"
            )
        self._refuse_placeholder_secrets()
        return self

    def _refuse_placeholder_secrets(self) -> None:
        if self.embedded:
            return
        secrets = {
            "STILLHOUSE_HUB_TOKEN": self.hub_token.get_secret_value() if self.hub_token else None,
            "the password in STILLHOUSE_DATABASE_URL": url_password(self.database_url),
            "the password in STILLHOUSE_BROKER_URL": url_password(self.broker_url),
            # Not ours to read, but ours to refuse: the object store takes it from the environment.
            "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        }
        for name, value in secrets.items():
            if value is not None and value.strip().lower() in PLACEHOLDER_SECRETS:
                raise ValueError(f"{name} is still a placeholder ({value!r}): set a real secret")

    @property
    def allowed_host_names(self) -> frozenset[str]:
        """`allowed_hosts`, apart and in lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def embedded(self) -> bool:
        """True when the database is a SQLite file, so that one machine holds everything."""
        return self.database_url.startswith("sqlite")

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, or None on a database server."""
        return Path(self.database_url.removeprefix("sqlite:///")) if self.embedded else None

    @property
    def queue_dir(self) -> Path | None:
        """The folder of a ``filesystem://`` queue, or None on a broker server."""
        if not self.broker_url.startswith("filesystem://"):
            return None
        path = self.broker_url.removeprefix("filesystem://")
        return Path(path).absolute() if path.strip("/") else self.home / "queue"


def url_password(url: str) -> str | None:
    """The password inside a URL, or None."""
    password = urlsplit(url).password
    return unquote(password) if password else None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process. Tests that change the environment call ``get_settings.cache_clear()``."""
    return Settings()
