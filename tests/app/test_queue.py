"""Hints through a folder and through a real Redis, and what happens when nobody answers."""

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from app import folder_queue, queue
from app.queue import MAX_BACKLOG, QUEUE, WAKE_TASK, celery_config
from app.settings import get_settings
from tests.fixtures.disk import fill, mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port, redis_server


@contextmanager
def connected() -> Iterator[Connection]:
    config = celery_config(get_settings())
    with Connection(config["broker_url"], transport_options=config["broker_transport_options"]) as connection:
        yield connection


def take_messages() -> list[Any]:
    """Every message in the queue, taken as a worker takes it."""
    taken = []
    with connected() as connection:
        channel = connection.channel()
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            taken.append(message)
    return taken


@pytest.mark.parametrize(
    ("url", "verification"),
    [
        ("rediss://:word@redis/0", ssl.CERT_REQUIRED),
        ("rediss://:word@redis/0?ssl_cert_reqs=none", ssl.CERT_NONE),
    ],
)
def test_over_tls_the_certificate_is_checked_unless_the_url_says_otherwise(
    url: str, verification: ssl.VerifyMode, change_settings: ChangeSettings
) -> None:
    """Harm: whoever is on the way to Redis can take its place, and is told its password."""
    change_settings(broker_url=url)
    assert queue._client(get_settings()).connection_for_write().ssl["ssl_cert_reqs"] == verification


class TestWake:
    @pytest.mark.usefixtures("broker")
    def test_sends_the_task_by_name(self) -> None:
        assert queue.wake()
        (message,) = take_messages()
        assert message.headers["task"] == WAKE_TASK == "stillhouse.wake"
        assert take_messages() == []

    @pytest.mark.usefixtures("broker")
    def test_tops_up_to_what_waits(self) -> None:
        queue.wake()
        queue.wake(waiting=4)
        queue.wake(waiting=3)
        queue.wake(waiting=0)
        assert len(take_messages()) == 4

    @pytest.mark.usefixtures("broker")
    def test_does_not_pile_up_while_no_worker_runs(self) -> None:
        queue.wake(waiting=10 * MAX_BACKLOG)
        assert queue.wake()
        assert len(take_messages()) == MAX_BACKLOG

    def test_survives_a_broker_that_is_down(self, change_settings: ChangeSettings) -> None:
        change_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        started = time.monotonic()
        assert not queue.wake()
        assert time.monotonic() - started < 15

    def test_survives_a_broker_that_does_not_answer(self, change_settings: ChangeSettings) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            change_settings(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
            started = time.monotonic()
            assert not queue.wake()
            assert time.monotonic() - started < 15

    def test_survives_a_folder_that_cannot_be_written(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        change_settings(broker_url=f"filesystem://{tmp_path}/file/queue")
        assert not queue.wake()

    def test_works_again_when_the_broker_is_back(self, change_settings: ChangeSettings) -> None:
        port = free_port()
        change_settings(broker_url=f"redis://127.0.0.1:{port}/0")
        with redis_server(port):
            assert queue.wake()
        assert not queue.wake()
        with redis_server(port):
            assert queue.wake()
            assert len(take_messages()) == 1

    def test_a_connection_that_died_while_nobody_used_it_is_made_anew(self, change_settings: ChangeSettings) -> None:
        """Harm: after a restart of the broker the first job of each process waits for the sweep."""
        port = free_port()
        change_settings(broker_url=f"redis://127.0.0.1:{port}/0")
        with redis_server(port):
            assert queue.wake()
        with redis_server(port):
            assert queue.wake()
            assert len(take_messages()) == 1


class TestCheck:
    @pytest.mark.usefixtures("broker")
    def test_is_silent_when_the_broker_answers(self) -> None:
        queue.check()

    def test_raises_when_it_does_not(self, change_settings: ChangeSettings) -> None:
        change_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        with pytest.raises(Exception, match="refused"):
            queue.check()


@pytest.mark.usefixtures("filesystem_broker")
class TestFolderTransport:
    def test_gives_each_message_to_one_of_many_consumers(self) -> None:
        queue.wake(waiting=40)
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda _number: take_messages(), range(4)))
        ids = [message.headers["id"] for batch in taken for message in batch]
        assert len(ids) == len(set(ids)) == 40

    def test_never_shows_half_a_message(self) -> None:
        with ThreadPoolExecutor(3) as pool:
            senders = [pool.submit(lambda: [queue.wake() for _ in range(10)]) for _ in range(2)]
            taken = 0
            while not all(sender.done() for sender in senders):
                taken += len(take_messages())
        assert taken + len(take_messages()) == 20

    def test_passes_over_what_a_power_cut_tore(self) -> None:
        """Harm: each such message ends the worker that reads it."""
        folder = get_settings().queue_dir
        assert folder is not None
        queue.wake()
        for number, content in enumerate((b"", b'{"body": "W1', bytes(100), b"\xff")):
            (folder / "messages" / f"{number}.{QUEUE}.msg").write_bytes(content)
        assert len(take_messages()) == 1
        assert list((folder / "messages").iterdir()) == []

    def test_needs_no_table_of_exchanges(self) -> None:
        """Harm: the table is written without a sync; torn by a power cut, it stops every sender and every worker."""
        folder = get_settings().queue_dir
        assert folder is not None
        (folder / "control").mkdir(parents=True)
        torn = folder / "control" / f"{QUEUE}.exchange"
        torn.touch()
        folder_queue.Transport.global_state.clear()  # as in a process that has just been started
        assert queue.wake()
        assert len(take_messages()) == 1
        assert torn.read_bytes() == b""

    def test_leaves_nothing_of_a_message_for_which_there_is_no_room(
        self, tmp_path: Path, change_settings: ChangeSettings
    ) -> None:
        """Harm: an empty file for each hint, on the disk that is full already."""
        with mounted_disk(tmp_path / "disk", "64k") as disk:
            settings = change_settings(broker_url=f"filesystem://{disk}")
            assert queue.wake(settings)
            filler = fill(disk)
            assert not queue.wake(settings)
            assert [path.suffix for path in (disk / "messages").iterdir()] == [".msg"]
            filler.unlink()
            assert queue.wake(settings)

    def test_worker_that_begins_removes_what_killed_ones_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: a file for each process that was killed at the wrong moment, for ever."""
        queue.wake()
        folder = get_settings().queue_dir
        assert folder is not None
        (message,) = (folder / "messages").iterdir()
        names = [f"1.{QUEUE}.part", f"1.{QUEUE}.msg.taken-2"]
        for name in names:
            (folder / "messages" / name).touch()

        def begin_to_listen() -> set[str]:
            with connected() as connection:
                connection.channel().basic_consume(QUEUE, no_ack=True, callback=lambda _: None, consumer_tag="a")
            return {path.name for path in (folder / "messages").iterdir()}

        assert begin_to_listen() == {message.name, *names}  # they may be somebody's who is just at it
        monkeypatch.setattr(folder_queue, "_LEFT_SECONDS", 0.0)
        assert begin_to_listen() == {message.name}

    def test_leaves_no_files_behind(self) -> None:
        queue.wake(waiting=3)
        take_messages()
        folder = get_settings().queue_dir
        assert folder is not None
        assert list((folder / "messages").iterdir()) == []
