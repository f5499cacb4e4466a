"""A database as the release of migration 0001 left it, with rows in every table, written by plain SQL."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, inspect

REVISION = "0001"

NOON = datetime(2026, 1, 5, 12, 0, 0, 250_000)
LATER = datetime(2026, 1, 5, 12, 30, 0, 5_000)
# A lease that nobody takes away.
FAR_FUTURE = datetime(2126, 1, 5, 12, 0, 0)
TOKEN, LOST_TOKEN = "0d6a0bdc7fc35e0580dcbca4", "9b04f1d265c185e19e8936f0"
SHA256 = "ab" * 32
FILES = [{"path": "model.safetensors", "size_bytes": 7, "sha256": SHA256}]

# What a client had posted, with its key, and what that release stored as the body's hash.
BODY = {"teacher": "tch_demo", "dataset": "dts_demo", "student": {"layers": 3}, "teacher_tuning": {}}
BODY_KEY = "kept-over-the-upgrade"
BODY_SHA256 = "13496478b2c3c9a6e5be815b83358eb05fffa0433510862b754938aa1d62f911"

NO_LEASE: dict[str, Any] = {"run_token": None, "lease_expires_at": None, "worker_name": None}


def job(job_id: str, status: str, **values: Any) -> dict[str, Any]:
    """All columns that a job had, as that release inserted them."""
    row = {
        "id": job_id,
        "status": status,
        "teacher_id": "tch_demo",
        "dataset_id": "dts_demo",
        "student": {"layers": 3, "hidden_size": "same", "init": "teacher_layers"},
        "method": {"type": "sage", "temperature": 2.0, "alpha": 0.9, "rounds": 4, "early_stopping": True},
        "training": {"epochs": 4.0, "batch_size": 32, "learning_rate": 0.0002, "precision": "auto", "seed": 7},
        "teacher_tuning": {"epochs": 3.0, "batch_size": 32, "learning_rate": 0.0001, "seed": 7},
        "baselines": [{"type": "fine_tune"}],
        "metadata": {"team": "zürich \U0001f600"},
        "phase": None,
        "round": None,
        "rounds": None,
        "progress": 0.0,
        "eta_seconds": None,
        "last_metrics": {},
        "result": None,
        "error_code": None,
        "error_message": None,
        "event_sequence": 0,
        "created_at": NOON,
        "started_at": None,
        "finished_at": None,
        "attempt": 0,
        "fruitless_attempts": 0,
        **NO_LEASE,
    }
    return {**row, **values}


def _imported(row_id: str, status: str, **values: Any) -> dict[str, Any]:
    row = {
        "id": row_id,
        "name": "older",
        "status": status,
        "sha256": None,
        "object_prefix": None,
        "files": None,
        "labels": None,
        "warnings": [],
        "error_code": None,
        "error_message": None,
        "created_at": NOON,
        "finished_at": None,
        "attempt": 0,
        "fruitless_attempts": 0,
        **NO_LEASE,
    }
    return {**row, **values}


def _dataset(row_id: str, status: str, **values: Any) -> dict[str, Any]:
    uploads = [{"split": "train", "filename": "a.csv", "object_key": f"datasets/{row_id}/uploads/train.csv"}]
    columns = {"text_column": "text", "text_pair_column": None, "label_column": "label", "uploads": uploads}
    found = {"size_bytes": 10**10, "rows": None, "is_validation_made": None}
    return _imported(row_id, status, **{**columns, **found, **values})


def _teacher(row_id: str, status: str, **values: Any) -> dict[str, Any]:
    names = ("family", "layers", "hidden_size", "num_labels", "parameters", "max_positions", "size_bytes")
    unknown = dict.fromkeys(names)
    return _imported(row_id, status, **{"source": {"type": "folder", "path": "/teachers/x"}, **unknown, **values})


RUNNING: dict[str, Any] = {
    "phase": "training",
    "round": 2,
    "rounds": 4,
    "progress": 0.5,
    "eta_seconds": 12.5,
    "last_metrics": {"loss": 0.25},
    "started_at": LATER,
    "attempt": 1,
    "worker_name": "gpu-1-77",
}
OVER = {**RUNNING, "finished_at": LATER, "eta_seconds": None}
READY = {"sha256": SHA256, "files": FILES, "finished_at": LATER, "attempt": 1, "worker_name": "gpu-1-77"}
ERROR = {"error_code": "nan_loss", "error_message": "The loss became NaN at step 3; lower the learning rate."}
BERT = {"family": "bert", "layers": 6, "hidden_size": 384, "parameters": 22_713_216, "max_positions": 512}

ROWS: dict[str, list[dict[str, Any]]] = {
    "jobs": [
        job("job_0queued", "queued", event_sequence=1),
        job("job_1running", "running", **RUNNING, run_token=TOKEN, lease_expires_at=FAR_FUTURE, event_sequence=2),
        job(
            "job_2lost",
            "running",
            **{**RUNNING, "run_token": LOST_TOKEN, "lease_expires_at": NOON, "fruitless_attempts": 1},
        ),
        job("job_3paused", "paused", **{**RUNNING, "eta_seconds": None}),
        job("job_4succeeded", "succeeded", **{**OVER, "progress": 1.0, "result": {"student": {"parameters": 7}}}),
        job("job_5failed", "failed", **OVER, **ERROR),
        job("job_6cancelled", "cancelled", finished_at=LATER),
    ],
    "datasets": [
        _dataset(
            "dts_demo",
            "ready",
            **READY,
            object_prefix="datasets/dts_demo/x/prepared",
            rows={"train": 8, "validation": 2},
            labels=["balance", "transfer"],
            is_validation_made=True,
            warnings=[{"code": "w", "count": 2}],
        ),
        _dataset("dts_pending", "pending"),
        _dataset("dts_failed", "failed", **ERROR, finished_at=LATER),
    ],
    "teachers": [
        _teacher("tch_demo", "ready", **READY, **BERT, object_prefix="teachers/tch_demo/x", size_bytes=90_000_000),
        _teacher("tch_pending", "pending"),
        _teacher("tch_failed", "failed", **ERROR, finished_at=LATER),
    ],
    "job_events": [
        {
            "job_id": job_id,
            "sequence": sequence,
            "type": "status",
            "payload": {"status": status, "terminal": False, "attempt": 0},
            "created_at": NOON,
        }
        for job_id, sequence, status in (
            ("job_0queued", 1, "queued"),
            ("job_1running", 1, "queued"),
            ("job_1running", 2, "running"),
        )
    ],
    "metrics": [
        {"job_id": "job_4succeeded", "series": "train/loss", "step": step, "value": value}
        for step, value in ((0, 0.1), (1, 1 / 3), (2, None), (2**40, 1e-300))
    ],
    "checkpoints": [
        {
            "job_id": job_id,
            "step": 40,
            "object_prefix": f"jobs/{job_id}/{LOST_TOKEN}/checkpoints/00000040",
            "files": FILES,
            "size_bytes": 2**40,
            "created_at": NOON,
        }
        for job_id in ("job_2lost", "job_5failed")
    ],
    "artifacts": [
        {
            "job_id": "job_4succeeded",
            "name": "onnx/model.onnx",
            "object_key": f"jobs/job_4succeeded/{TOKEN}/artifact/onnx/model.onnx",
            "size_bytes": 7,
            "sha256": SHA256,
            "created_at": NOON,
        }
    ],
    "idempotency_keys": [
        {"key": BODY_KEY, "body_sha256": BODY_SHA256, "job_id": "job_0queued", "created_at": FAR_FUTURE}
    ],
    "object_cleanups": [{"object_prefix": "jobs/job_6cancelled", "due_at": FAR_FUTURE}],
}


def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    values = ", ".join(_literal(value, connection.dialect.name) for value in row.values())
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"
    # A percent sign or a colon in a value is no parameter.
    connection.exec_driver_sql(statement.replace("%", "%%"))


def insert_all(connection: Connection) -> None:
    for table, rows in ROWS.items():
        for row in rows:
            insert(connection, table, row)


def older_columns(connection: Connection) -> dict[str, list[str]]:
    """The columns of each table, as they are now."""
    found = inspect(connection)
    tables = sorted(set(found.get_table_names()) - {"alembic_version"})
    return {table: [column["name"] for column in found.get_columns(table)] for table in tables}


def snapshot(connection: Connection, columns: dict[str, list[str]]) -> dict[str, list[tuple[Any, ...]]]:
    """Every value of these columns, as the driver gives it."""
    held = {}
    for table, names in columns.items():
        rows = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM {table}").all()
        held[table] = sorted((tuple(row) for row in rows), key=repr)
    return held


def _literal(value: Any, dialect: str) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime):
        zone = "+00" if dialect == "postgresql" else ""
        return f"'{value.isoformat(' ', 'microseconds')}{zone}'"
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"
