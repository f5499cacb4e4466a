"""The tables. Rows are read anywhere; they are written by `app/repositories` alone.

`jobs`, `datasets` and `teachers` are leased: a worker that claims a row gets a fresh run token, and every
later write of that worker names the token and changes nothing once the token is gone.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CleanJSON, CleanText, UtcDateTime, db_now
from app.domain.files import StoredFile

Id = String(48)
Sha256 = String(64)


class Leased:
    """Columns of a row that a worker can claim."""

    # Set by a claim, cleared when the work ends or is handed back. Writes of a worker match it.
    run_token: Mapped[str | None] = mapped_column(String(48))
    # By the database's clock. Past it, the sweep may take the work away.
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Claims so far: the number of the newest attempt.
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    # Claims in a row without a new checkpoint. Counted at the claim, set to 0 by a checkpoint, taken back when
    # the work is handed back.
    fruitless_attempts: Mapped[int] = mapped_column(Integer, default=0)
    # Who claimed it last; kept afterwards for the person who looks for the log.
    worker_name: Mapped[str | None] = mapped_column(CleanText)


class Job(Leased, Base):
    __tablename__ = "jobs"
    __table_args__ = (
        # Claim what is most urgent.
        Index(
            "ix_jobs_claim",
            text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=text("status = 'queued'"),
            sqlite_where=text("status = 'queued'"),
        ),
        # List by status.
        Index("ix_jobs_status_created_at_id", "status", "created_at", "id"),
        Index("ix_jobs_created_at_id", "created_at", "id"),
        # List by teacher or by dataset, also by one whose jobs are all old.
        Index("ix_jobs_teacher_id_created_at_id", "teacher_id", "created_at", "id"),
        Index("ix_jobs_dataset_id_created_at_id", "dataset_id", "created_at", "id"),
        # List by metadata: a key, or a key with its value. SQLite has nothing of the kind.
        Index("ix_jobs_metadata", "metadata", postgresql_using="gin").ddl_if(dialect="postgresql"),
        Index(
            "ix_jobs_lease_expires_at",
            "lease_expires_at",
            postgresql_where=text("run_token IS NOT NULL"),
            sqlite_where=text("run_token IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # Changed only by app.repositories.jobs.switch_status.
    status: Mapped[str] = mapped_column(String(16))
    # No foreign keys to what the job used: a finished job keeps naming it after it was deleted.
    teacher_id: Mapped[str] = mapped_column(Id)
    dataset_id: Mapped[str] = mapped_column(Id)
    # The request, with every default filled in.
    student: Mapped[dict[str, Any]] = mapped_column(CleanJSON)
    method: Mapped[dict[str, Any]] = mapped_column(CleanJSON)
    combine: Mapped[list[dict[str, Any]]] = mapped_column(CleanJSON, default=list, server_default="[]")
    training: Mapped[dict[str, Any]] = mapped_column(CleanJSON)
    teacher_tuning: Mapped[dict[str, Any] | None] = mapped_column(CleanJSON)
    baselines: Mapped[list[dict[str, Any]]] = mapped_column(CleanJSON, default=list)
    # `metadata` is taken on a declarative class.
    job_metadata: Mapped[dict[str, str]] = mapped_column("metadata", CleanJSON, default=dict)
    # Higher first. The server's defaults here are for the rows of API processes of an older release.
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    time_limit_seconds: Mapped[float | None] = mapped_column(Float)
    # For how long engines have worked on it since it was posted or last retried: what the limit is compared with.
    run_seconds: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")
    # Of the request that posted it: they tie the worker's log lines and spans to the API's.
    request_id: Mapped[str | None] = mapped_column(CleanText)
    traceparent: Mapped[str | None] = mapped_column(String(64))

    phase: Mapped[str | None] = mapped_column(String(32))
    round: Mapped[int | None] = mapped_column(Integer)
    rounds: Mapped[int | None] = mapped_column(Integer)
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    eta_seconds: Mapped[float | None] = mapped_column(Float)
    last_metrics: Mapped[dict[str, Any]] = mapped_column(CleanJSON, default=dict)
    # [{"code", "message"}]: what the run warned of since it began, over all attempts; each code once.
    warnings: Mapped[list[dict[str, str]]] = mapped_column(CleanJSON, default=list, server_default="[]")
    result: Mapped[dict[str, Any] | None] = mapped_column(CleanJSON)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(CleanText)
    # The sequence of the newest event. Raised in the transaction that adds events, whose row lock keeps
    # the sequence without gaps and without readers that see a later event before an earlier one.
    event_sequence: Mapped[int] = mapped_column(Integer, default=0)

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())
    # Since when it waits, or waited the last time; null on rows of an older release.
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=db_now())
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Attempt(Base):
    """One worker's go at a job. Written by app.repositories.jobs.switch_status, with the job's status."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    # 1, 2, 3, ... per job.
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker_name: Mapped[str | None] = mapped_column(CleanText)
    outcome: Mapped[str] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(CleanText)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # Of the body as it was received and validated: equal bodies, equal hash.
    body_sha256: Mapped[str] = mapped_column(Sha256)
    # No foreign key: the key is taken first, the job inserted after it in the same transaction.
    job_id: Mapped[str] = mapped_column(Id, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now(), index=True)


class JobEvent(Base):
    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    # 1, 2, 3, ... per job.
    sequence: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]] = mapped_column(CleanJSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())


class Metric(Base):
    """One value per series and step: what a resumed run measures again replaces what stood there."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    series: Mapped[str] = mapped_column(String(128), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # Null where the number measured was not finite.
    value: Mapped[float | None] = mapped_column(Float(53))


class Checkpoint(Base):
    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # Under the run token of the worker that wrote it, which may not be the one that reads it.
    object_prefix: Mapped[str] = mapped_column(CleanText)
    files: Mapped[list[StoredFile]] = mapped_column(CleanJSON)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # What was being trained, and the round that had just ended; both null where the release was older.
    arm: Mapped[str | None] = mapped_column(String(64))
    round: Mapped[int | None] = mapped_column(Integer)
    # Of the student at the end of that round; null for a checkpoint within a round.
    validation_accuracy: Mapped[float | None] = mapped_column(Float(53))
    # The best student so far: kept beside the newest.
    is_best: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())


class Artifact(Base):
    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    # The path inside the student's folder, or student.tar.gz for the whole.
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    object_key: Mapped[str] = mapped_column(CleanText)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Sha256)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())


class Dataset(Leased, Base):
    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_status_created_at_id", "status", "created_at", "id"),
        Index("ix_datasets_created_at_id", "created_at", "id"),
        Index(
            "ix_datasets_lease_expires_at",
            "lease_expires_at",
            postgresql_where=text("run_token IS NOT NULL"),
            sqlite_where=text("run_token IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str | None] = mapped_column(CleanText)
    # Changed only by app.repositories.imports.switch_status. A claimed dataset stays `pending`.
    status: Mapped[str] = mapped_column(String(16))
    # As asked for; null means that the worker picks by name, and then writes what it picked.
    text_column: Mapped[str | None] = mapped_column(CleanText)
    text_pair_column: Mapped[str | None] = mapped_column(CleanText)
    label_column: Mapped[str | None] = mapped_column(CleanText)
    # What was received: [{"split", "filename", "object_key", "size_bytes", "sha256"}].
    uploads: Mapped[list[dict[str, Any]]] = mapped_column(CleanJSON, default=list)
    # Bytes received.
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)

    # From here on null until the dataset is ready.
    rows: Mapped[dict[str, int] | None] = mapped_column(CleanJSON)  # by split, the labelled ones
    unlabelled_rows: Mapped[int | None] = mapped_column(BigInteger)  # null where there are none
    labels: Mapped[list[str] | None] = mapped_column(CleanJSON)
    is_validation_made: Mapped[bool | None] = mapped_column()
    # Over the rows' content, not over the bytes of the files.
    sha256: Mapped[str | None] = mapped_column(Sha256)
    object_prefix: Mapped[str | None] = mapped_column(CleanText)
    files: Mapped[list[StoredFile] | None] = mapped_column(CleanJSON)

    warnings: Mapped[list[Any]] = mapped_column(CleanJSON, default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(CleanText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Teacher(Leased, Base):
    __tablename__ = "teachers"
    __table_args__ = (
        Index("ix_teachers_status_created_at_id", "status", "created_at", "id"),
        Index("ix_teachers_created_at_id", "created_at", "id"),
        Index(
            "ix_teachers_lease_expires_at",
            "lease_expires_at",
            postgresql_where=text("run_token IS NOT NULL"),
            sqlite_where=text("run_token IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str | None] = mapped_column(CleanText)
    # {"type": "hub"|"folder"|"job", ...} as the request gave it, or {"type": "upload", "files"} of what it brought.
    source: Mapped[dict[str, Any]] = mapped_column(CleanJSON)
    # Changed only by app.repositories.imports.switch_status. A claimed teacher stays `pending`.
    status: Mapped[str] = mapped_column(String(16))

    # From here on null until the teacher is ready.
    family: Mapped[str | None] = mapped_column(String(32))
    layers: Mapped[int | None] = mapped_column(Integer)
    hidden_size: Mapped[int | None] = mapped_column(Integer)
    # Null also on a ready teacher that is an encoder without a classifier.
    num_labels: Mapped[int | None] = mapped_column(Integer)
    labels: Mapped[list[str] | None] = mapped_column(CleanJSON)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    max_positions: Mapped[int | None] = mapped_column(Integer)
    sha256: Mapped[str | None] = mapped_column(Sha256)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    object_prefix: Mapped[str | None] = mapped_column(CleanText)
    files: Mapped[list[StoredFile] | None] = mapped_column(CleanJSON)

    warnings: Mapped[list[Any]] = mapped_column(CleanJSON, default=list)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(CleanText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=db_now())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ObjectCleanup(Base):
    """A part of the object store in which something may no longer be named by any row.

    Written in the transaction that stopped naming it, worked off by the sweep: so nothing is deleted before
    the commit, nothing is forgotten after it, and the store never has to be listed as a whole.
    """

    __tablename__ = "object_cleanups"

    object_prefix: Mapped[str] = mapped_column(String(512), primary_key=True)
    # The sweep waits for a while longer, until a worker whose token was taken has stopped writing there.
    due_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
