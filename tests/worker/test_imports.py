"""Datasets and teachers from claim to ready or failed, on both databases and both stores."""

import gzip
import json
from pathlib import Path

import pytest

from app.db.session import write_session
from app.repositories import cleanups, imports
from app.sweep import sweep_once
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claimed, expire, make_cleanups_due
from tests.worker.conftest import Bench
from tests.worker.preparation.hub_server import Hub, hub_server
from worker.runner import run_claim
from worker.stopping import Shutdown

ROWS = [(f"row {number}", "yes" if number % 2 else "no") for number in range(40)]
CSV = ("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)).encode()


def work(bench: Bench) -> None:
    run_claim(claimed(), bench.settings, bench.shutdown)
    assert list(bench.settings.work_dir.iterdir()) == []


class TestDataset:
    @pytest.mark.usefixtures("database", "object_store")
    def test_becomes_ready_with_all_that_the_api_tells(self, bench: Bench) -> None:
        dataset_id = bench.add_dataset(
            {
                "train.csv.gz": gzip.compress(CSV),
                "test.csv": b"text,label\nrow 0,no\nrow 1,yes\n",
                "unlabelled.csv": b"text\nmore\n",
            }
        )
        work(bench)
        row = bench.dataset(dataset_id)
        assert (row.status, row.error_message) == ("ready", None)
        assert (row.rows, row.labels) == ({"train": 36, "validation": 4, "test": 2}, ["no", "yes"])
        assert row.unlabelled_rows == 1
        assert (row.text_column, row.text_pair_column, row.label_column) == ("text", None, "label")
        assert row.is_validation_made
        assert len(row.warnings) == 1
        assert row.object_prefix is not None
        description = json.loads(bench.store.get_bytes(f"{row.object_prefix}/dataset.json"))
        assert description["sha256"] == row.sha256
        assert sorted(file["path"] for file in row.files or []) == [
            "dataset.json",
            "test.parquet",
            "train.parquet",
            "unlabelled.parquet",
            "validation.parquet",
        ]

    @pytest.mark.usefixtures("database", "folder_object_store")
    def test_bad_upload_fails_with_its_code_and_the_users_own_file_name(self, bench: Bench) -> None:
        dataset_id = bench.add_dataset({"train.csv": CSV + b"one,two,three\n"})
        work(bench)
        row = bench.dataset(dataset_id)
        assert (row.status, row.error_code) == ("failed", "dataset_ragged_line")
        assert str(row.error_message).startswith("Line 42 of train.csv has 3 fields")
        assert row.files is None

    def test_upload_that_is_gone(self, local_bench: Bench) -> None:
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        local_bench.store.delete_prefix(f"datasets/{dataset_id}")
        work(local_bench)
        assert local_bench.dataset(dataset_id).error_code == "dataset_upload_lost"

    def test_full_disk(self, local_bench: Bench, tiny_disk: Path, change_settings: ChangeSettings) -> None:
        change_settings(work_dir=tiny_disk)
        dataset_id = local_bench.add_dataset({"train.csv": CSV + b"again,no\n" * 10_000})
        work(local_bench)
        row = local_bench.dataset(dataset_id)
        assert row.error_code == "disk_full"
        assert str(row.error_message).endswith("Then upload it again.")

    def test_worker_that_is_stopping_hands_it_back(self, local_bench: Bench) -> None:
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        local_bench.shutdown.request()
        work(local_bench)
        row = local_bench.dataset(dataset_id)
        assert (row.status, row.run_token, row.attempt) == ("pending", None, 1)
        local_bench.shutdown = Shutdown(5.0)
        work(local_bench)
        assert local_bench.dataset(dataset_id).status == "ready"

    def test_deleted_while_it_waits(self, local_bench: Bench) -> None:
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        claim = claimed()
        with write_session() as session:
            imports.remove(session, "dataset", dataset_id)
        run_claim(claim, local_bench.settings, local_bench.shutdown)
        assert local_bench.objects(f"datasets/{dataset_id}/{claim.run_token}") == []


class TestTeacher:
    @pytest.mark.usefixtures("database", "object_store")
    def test_folder_becomes_ready_with_its_files_stored(self, bench: Bench) -> None:
        teacher_id = bench.add_teacher()
        work(bench)
        row = bench.teacher(teacher_id)
        assert (row.status, row.error_message) == ("ready", None)
        assert (row.family, row.layers, row.hidden_size, row.num_labels) == ("bert", 4, 32, 3)
        assert row.labels == ["animal", "colour", "fruit"]
        stored = [key.rsplit("/", 1)[1] for key in bench.objects(str(row.object_prefix))]
        assert stored == sorted(file["path"] for file in row.files or [])
        assert "model.safetensors" in stored

    @pytest.mark.usefixtures("database", "object_store")
    def test_upload_becomes_ready_and_then_there_is_one_copy_of_it(self, bench: Bench) -> None:
        """Harm: the sweep removes what waits for a worker; or each teacher takes its place twice, for good."""
        teacher_id = bench.add_uploaded_teacher(trainer_state=b"{}")
        uploads = bench.objects(f"teachers/{teacher_id}")
        # While it waits, while a worker has it, and after that has lost it.
        for moment in ("waiting", "claimed", "lost"):
            if moment == "claimed":
                claim = claimed()
            if moment == "lost":
                expire(claim)
            with write_session() as session:
                cleanups.schedule(session, f"teachers/{teacher_id}")
            make_cleanups_due()
            sweep_once(bench.settings)
            assert bench.objects(f"teachers/{teacher_id}") == uploads, moment
        assert bench.teacher(teacher_id).run_token is None

        of_folder = bench.add_teacher()
        work(bench)
        work(bench)
        row = bench.teacher(teacher_id)
        assert (row.status, row.error_message) == ("ready", None)
        assert row.sha256 == bench.teacher(of_folder).sha256  # what else came with it is none of it
        make_cleanups_due()
        sweep_once(bench.settings)
        left = bench.objects(f"teachers/{teacher_id}")
        assert sorted(left) == sorted(f"{row.object_prefix}/{file['path']}" for file in row.files or [])

    def test_upload_that_is_none_leaves_nothing(self, local_bench: Bench) -> None:
        teacher_id = local_bench.add_uploaded_teacher(config=b"{}")
        work(local_bench)
        row = local_bench.teacher(teacher_id)
        assert (row.status, row.error_code) == ("failed", "teacher_family_unsupported")
        make_cleanups_due()
        sweep_once(local_bench.settings)
        assert local_bench.objects(f"teachers/{teacher_id}") == []

    def test_upload_that_is_gone(self, local_bench: Bench) -> None:
        teacher_id = local_bench.add_uploaded_teacher()
        local_bench.store.delete_prefix(f"teachers/{teacher_id}")
        work(local_bench)
        row = local_bench.teacher(teacher_id)
        assert (row.status, row.error_code) == ("failed", "teacher_upload_lost")
        assert str(row.error_message).startswith("config.json: ")

    def test_folder_outside_the_allowed_ones(
        self, local_bench: Bench, change_settings: ChangeSettings, tmp_path: Path
    ) -> None:
        change_settings(teacher_dirs=tmp_path)
        teacher_id = local_bench.add_teacher()
        work(local_bench)
        row = local_bench.teacher(teacher_id)
        assert (row.status, row.error_code) == ("failed", "teacher_folder_refused")

    def test_hub_repository(self, local_bench: Bench, change_settings: ChangeSettings) -> None:
        files = {path.name: path.read_bytes() for path in local_bench.teacher_folder.iterdir()}
        with hub_server(Hub({"org/tiny": files})) as hub:
            change_settings(hub_endpoint=hub.url, hub_token="hf_of_the_settings")
            teacher_id = local_bench.add_teacher({"type": "hub", "repo": "org/tiny", "revision": "main"})
            work(local_bench)
        row = local_bench.teacher(teacher_id)
        assert (row.status, row.error_message) == ("ready", None)
        assert hub.tokens == {"Bearer hf_of_the_settings"}

    def test_hub_repository_of_pickles(self, local_bench: Bench, change_settings: ChangeSettings) -> None:
        files = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
        with hub_server(Hub({"org/old": files})) as hub:
            change_settings(hub_endpoint=hub.url)
            teacher_id = local_bench.add_teacher({"type": "hub", "repo": "org/old", "revision": "main"})
            work(local_bench)
        assert local_bench.teacher(teacher_id).error_code == "teacher_weights_not_safetensors"
        assert hub.downloads == []

    def test_student_of_a_job_that_has_not_succeeded(self, local_bench: Bench) -> None:
        inputs = local_bench.ready_inputs()
        job_id = local_bench.add_job(inputs)
        teacher_id = local_bench.add_teacher({"type": "job", "job": job_id})
        work(local_bench)
        row = local_bench.teacher(teacher_id)
        assert row.error_code == "teacher_job_not_finished"
        assert "is queued" in str(row.error_message)
