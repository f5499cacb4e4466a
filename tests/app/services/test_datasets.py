from pathlib import Path

import pytest

from app.errors import InvalidRequest
from app.services import datasets
from app.settings import get_settings
from app.storage.store import ObjectStore
from tests.app.test_queue import take_messages
from tests.fixtures.factories import read_dataset

pytestmark = pytest.mark.usefixtures("sqlite_database", "filesystem_broker")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nhello,greeting\n")
    return path


class TestRegisterFiles:
    def test_stores_what_an_upload_would(self, rows: Path, object_store: ObjectStore) -> None:
        dataset = datasets.register_files(
            get_settings(), dataset_id="dts_demo", name="demo", files={"train": rows, "test": rows}
        )
        row = read_dataset("dts_demo")
        assert (row.status, row.name, row.size_bytes) == ("pending", "demo", 2 * rows.stat().st_size)
        assert [upload["split"] for upload in row.uploads] == ["train", "test"]
        assert object_store.get_bytes(row.uploads[0]["object_key"]) == rows.read_bytes()
        assert dataset.id == "dts_demo"

    def test_leaves_an_id_that_exists_as_it_stands(self, rows: Path) -> None:
        datasets.register_files(get_settings(), dataset_id="dts_demo", name="first", files={"train": rows})
        assert len(take_messages()) == 1
        again = datasets.register_files(get_settings(), dataset_id="dts_demo", name="second", files={"train": rows})
        assert again.name == "first"
        assert take_messages() == []

    def test_refuses_an_unknown_format(self, tmp_path: Path) -> None:
        (tmp_path / "rows.txt").write_text("x")
        with pytest.raises(InvalidRequest, match=r"'rows\.txt'"):
            datasets.register_files(get_settings(), files={"train": tmp_path / "rows.txt"})
