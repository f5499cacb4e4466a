import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from bench.datasets import Dataset, prepare

SPLITS = {"train": 100, "dev": 10, "test": 20}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder; every text says whence it is."""
    folder = tmp_path / "data" / "sst2_sentences"
    folder.mkdir(parents=True)
    for split, rows in SPLITS.items():
        lines = [json.dumps({"text": f"{split} {row}", "label": "ab"[row % 2]}) for row in range(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path / "data"


def texts(dataset: Dataset, split: str) -> list[str]:
    found = parquet.read_table(dataset.folder / f"{split}.parquet")["text"].to_pylist()
    assert len(found) == dataset.rows[split]
    return [str(text) for text in found]


class TestPrepare:
    def test_a_trial_is_judged_by_training_rows_that_are_held_out(self, data: Path, tmp_path: Path) -> None:
        """Harm: what is chosen by the test split is reported on it."""
        whole = prepare("sst2_sentences", data, tmp_path, None)
        trial = prepare("sst2_sentences", data, tmp_path, None, is_trial=True)
        held_out, seen = texts(trial, "test"), texts(trial, "train")
        assert len(held_out) == 40
        assert not {*held_out} & {*seen}
        assert {*held_out, *seen} == {*texts(whole, "train")}
        assert texts(trial, "validation") == texts(whole, "validation")
        assert trial.sha256 != whole.sha256
        assert texts(whole, "test") == [f"test {row}" for row in range(20)]

    def test_fewer_rows_of_a_trial_are_of_those_that_its_teacher_sees(self, data: Path, tmp_path: Path) -> None:
        trial = prepare("sst2_sentences", data, tmp_path, None, is_trial=True)
        few = prepare("sst2_sentences", data, tmp_path, 30, splits=("train",), is_trial=True)
        assert few.rows == {"train": 30, "validation": 10, "test": 40}
        assert {*texts(few, "train")} < {*texts(trial, "train")}
        assert texts(few, "test") == texts(trial, "test")
        assert few.sha256 != trial.sha256
