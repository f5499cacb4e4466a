import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.worker.distill.tiny_runs import make_run
from worker.distill.data import NO_LABEL, Split, load_dataset
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
    assert parted.tokens_sha256 == whole.tokens_sha256


def test_the_hash_of_its_tokens_is_another_where_one_token_of_any_split_is(tmp_path: Path) -> None:
    """Harm: what a teacher said of other tokens is taken from the cache, after an upgrade of the tokenizers library."""
    folder = make_run(tmp_path / "run", has_pairs=True)
    tokenizer = load_tokenizer(folder / "teacher")
    found = {load_dataset(folder / "dataset", tokenizer, max_length=24).tokens_sha256}
    # As many tokens, cut one sooner, and an id instead of another in one row of the last split alone.
    found.add(load_dataset(folder / "dataset", tokenizer, max_length=8).tokens_sha256)
    file = folder / "dataset" / "test.parquet"
    columns = parquet.read_table(file).to_pydict()
    columns["text_pair"][-1] = columns["text_pair"][-1].replace(" ", " [MASK] ", 1)
    parquet.write_table(pa.table(columns | {"label": pa.array(columns["label"], pa.int32())}), file)
    found.add(load_dataset(folder / "dataset", tokenizer, max_length=24).tokens_sha256)
    assert len(found) == 3


def test_rows_with_a_token_are_found_at_their_ends_too() -> None:
    offsets = np.array([0, 3, 5, 9, 10])
    nothing = np.zeros(10)
    split = Split(np.array([7, 1, 1, 1, 7, 1, 7, 7, 1, 1]), nothing, nothing, offsets, np.zeros(4))
    assert split.rows_with(7).tolist() == [0, 1, 2]
    assert split.rows_with(8).tolist() == []


def test_a_dataset_of_another_release_s_format_is_refused(tmp_path: Path) -> None:
    """Harm: prepared datasets outlive releases, and one that is read by other rules trains all the same."""
    folder = make_run(tmp_path / "run") / "dataset"
    summary = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(summary | {"format_version": 3}))
    with pytest.raises(InvalidJob, match="prepared in format 3, and this engine reads 1 and 2: upload it again"):
        load_dataset(folder, None, max_length=24)


@pytest.mark.parametrize("has_pairs", [False, True])
def test_unlabelled_rows_stand_behind_those_of_the_training_split(has_pairs: bool, tmp_path: Path) -> None:
    """Harm: the student is taught a label that nobody gave, or a labelled row's number means another row."""
    folder = make_run(tmp_path / "run", has_pairs=has_pairs, unlabelled_rows=40)
    tokenizer = load_tokenizer(folder / "teacher")
    whole = load_dataset(folder / "dataset", tokenizer, max_length=24)
    file = folder / "dataset" / "unlabelled.parquet"
    texts = parquet.read_table(file).to_pydict()
    alone = load_dataset(make_run(tmp_path / "alone", has_pairs=has_pairs) / "dataset", tokenizer, max_length=24)

    split = whole.train
    assert len(split) == 190
    assert split.has_label.tolist() == [True] * 150 + [False] * 40
    assert (split.labels[150:] == NO_LABEL).all()
    for left, right in zip(astuple(split.labelled), astuple(alone.train), strict=True):
        np.testing.assert_array_equal(left, right)
    for row, written in enumerate(zip(*texts.values(), strict=True), 150):
        expected = tokenizer(*written, truncation=True, max_length=24)["input_ids"]
        assert split.ids[split.offsets[row] : split.offsets[row + 1]].tolist() == expected
    assert whole.tokens_sha256 != alone.tokens_sha256
    assert alone.train.labelled is alone.train
    assert [split.place("train", row) for row in (149, 150)] == ["row 149 of train", "row 0 of unlabelled"]
