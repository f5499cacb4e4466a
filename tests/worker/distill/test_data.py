import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tests.worker.distill.tiny_runs import make_run
from worker.distill.data import load_dataset
from worker.distill.errors import InvalidJob
from worker.distill.teacher import load_tokenizer


def test_rows_are_the_same_in_however_many_groups_they_lie(tmp_path: Path) -> None:
    """Harm: a dataset of long texts, whose row groups are small, that is trained on in another order."""
    folder = make_run(tmp_path / "run", has_pairs=True)
    tokenizer = load_tokenizer(folder / "teacher")
    whole = load_dataset(folder / "dataset", tokenizer, max_length=24)
    file = folder / "dataset" / "train.parquet"
    parquet.write_table(parquet.read_table(file), file, row_group_size=7)
    assert parquet.ParquetFile(file).num_row_groups > 3

    parted = load_dataset(folder / "dataset", tokenizer, max_length=24)

    for left, right in zip(astuple(whole.train), astuple(parted.train), strict=True):
        np.testing.assert_array_equal(left, right)
    assert parted.examples["train"] == whole.examples["train"]


def test_a_dataset_of_another_release_s_format_is_refused(tmp_path: Path) -> None:
    """Harm: prepared datasets outlive releases, and one that is read by other rules trains all the same."""
    folder = make_run(tmp_path / "run") / "dataset"
    summary = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(summary | {"format_version": 2}))
    with pytest.raises(InvalidJob, match="prepared in format 2, and this engine reads 1: upload it again"):
        load_dataset(folder, None, max_length=24)
