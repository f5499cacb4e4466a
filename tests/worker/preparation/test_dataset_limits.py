"""However an upload is made, it takes a bounded part of a worker's memory and time."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.preparation.uploads import ROWS, Bench, csv_bytes, json_bytes, parquet_bytes
from worker.preparation import lines, staging, tables
from worker.preparation.columns import Columns
from worker.preparation.errors import no_tick
from worker.preparation.lines import MAX_LINE_CHARACTERS, Upload

# One a test, for good: what Arrow took from a pool may outlive the test.
COUNTED_MEMORY = [pa.proxy_memory_pool(pa.default_memory_pool()) for _ in range(4)]


class Unwanted(Exception):
    """What a tick raises where the dataset was deleted."""


class Patience:
    """A tick that has enough at the last of so many calls."""

    def __init__(self, calls: int) -> None:
        self.calls_left = calls

    def tick(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise Unwanted


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestSize:
    def test_small_gzip_that_unpacks_to_too_much(self, bench: Bench) -> None:
        content = gzip.compress(b"text,label\n" + b"x,a\n" * 100_000)
        failure = bench.fail({"train.csv.gz": content}, max_bytes=10_000)
        assert failure.code == "dataset_too_large"

    @pytest.mark.parametrize("is_dictionary", [True, False], ids=["dictionary", "plain"])
    def test_small_parquet_that_unpacks_to_too_much(self, bench: Bench, is_dictionary: bool) -> None:
        """Harm: a few kilobytes that fill the worker's memory and end it, and the next worker after it."""
        texts = pa.array(["x" * 1_000_000] * 200)
        sink = io.BytesIO()
        pq.write_table(
            pa.table({"text": texts, "label": ["a", "b"] * 100}), sink, compression="zstd", use_dictionary=is_dictionary
        )
        assert len(sink.getvalue()) < 100_000
        usual = pa.default_memory_pool()
        pa.set_memory_pool(COUNTED_MEMORY[is_dictionary])
        try:
            failure = bench.fail({"train.parquet": sink.getvalue()}, max_bytes=20_000_000)
        finally:
            pa.set_memory_pool(usual)
        assert failure.code == "dataset_too_large"
        assert failure.message.startswith("train.parquet unpacks to more than 20000000 bytes")
        assert 0 < COUNTED_MEMORY[is_dictionary].max_memory() < 50_000_000

    @pytest.mark.parametrize(
        "text_type", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
    )
    def test_parquet_whose_texts_repeat_is_read_in_pieces(
        self, bench: Bench, text_type: pa.DataType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: one batch of a dictionary's long texts, each written out, is more than the memory."""
        monkeypatch.setattr(tables, "PIECE_BYTES", 100)
        texts = [f"text {number} " * (number % 30) for number in range(1, 500)]
        columns = {"text": pa.array(texts, pa.string()).cast(text_type), "label": ["a", "b", "c"] * 166 + ["a"]}
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        path = bench.folder / "train.parquet"
        path.write_bytes(sink.getvalue())
        table = tables.open_table(Upload("train", "train.parquet", path), max_bytes=10_000_000, tick=no_tick)
        rows = [(number, *values) for number, values in table.rows(Columns("text", None, "label"))]
        assert rows == list(zip(range(1, 500), texts, columns["label"], strict=True))

    @pytest.mark.parametrize(
        ("text_type", "code"),
        [(pa.string_view(), "dataset_too_large"), (pa.binary(), "dataset_bad_text")],
        ids=["string_view", "binary"],
    )
    def test_small_parquet_of_another_text_type_takes_no_memory(
        self, bench: Bench, text_type: pa.DataType, code: str
    ) -> None:
        """Harm: a few kilobytes that fill the worker's memory before anybody asks what they unpack to."""
        texts = pa.array(["x" * 1_000_000] * 200).cast(text_type)
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * 100}), sink, compression="zstd")
        pool = COUNTED_MEMORY[2 if code == "dataset_too_large" else 3]
        usual = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            failure = bench.fail({"train.parquet": sink.getvalue()}, max_bytes=20_000_000)
        finally:
            pa.set_memory_pool(usual)
        assert failure.code == code
        assert pool.max_memory() < 50_000_000

    def test_long_texts_are_written_and_read_few_at_a_time(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: four thousand documents at a time are more than the memory, of the preparation and of every engine."""
        monkeypatch.setattr(staging, "BATCH_CHARACTERS", 10_000)
        rows = [
            {"text": f"{number} " + "long " * 400, "text_pair": "x" * 1_000, "label": number % 2}
            for number in range(99)
        ]
        bench.prepare({"train.jsonl": json_bytes(rows), "validation.jsonl": json_bytes(rows)})
        with pq.ParquetFile(bench.prepared / "train.parquet") as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert sizes == [4] * 24 + [3]
        assert [row["text"] for row in bench.rows("train")] == [row["text"] for row in rows]

    def test_parquet_text_longer_than_a_line_may_be_names_its_row(self, bench: Bench) -> None:
        """Harm: one cell of gigabytes, copied several times over, ends the worker."""
        texts = ["x"] * tables.PARQUET_BATCH_ROWS + ["y", "é" * (MAX_LINE_CHARACTERS + 1), "z"]
        content = parquet_bytes(text=texts, label=["a"] * len(texts))
        failure = bench.fail({"train.parquet": content})
        assert failure.code == "dataset_bad_text"
        assert failure.message == (
            "Row 4098 of train.parquet: 'text' is longer than 8388608 characters. Shorten it, or leave the row out."
        )

    def test_parquet_text_is_measured_in_characters(self, bench: Bench) -> None:
        long = "é" * (MAX_LINE_CHARACTERS // 2 + 1)
        files = {"train.parquet": parquet_bytes(text=[long, "x"], label=["a", "b"]), "validation.csv": csv_bytes(ROWS)}
        bench.prepare(files)
        assert bench.rows("train")[0]["text"] == long

    def test_parquet_label_longer_than_a_line_may_be(self, bench: Bench) -> None:
        content = parquet_bytes(text=["x", "y"], label=["a", "b" * (MAX_LINE_CHARACTERS + 1)])
        failure = bench.fail({"train.parquet": content})
        assert failure.code == "dataset_bad_label"
        assert failure.message.startswith("Row 2 of train.parquet: 'label' is longer than")

    def test_row_of_short_lines_and_fields_that_never_ends(self, bench: Bench) -> None:
        """Harm: quotation marks close and open on each line, and one row of a small gzip fills the memory."""
        endless = b'"a\n",' * (MAX_LINE_CHARACTERS // 4)
        failure = bench.fail({"train.csv.gz": gzip.compress(b"text,label\nx,a\n\n" + endless)})
        assert failure.code == "dataset_ragged_line"
        assert failure.message == (
            "The row that begins on line 4 of train.csv.gz does not end within 8388608 characters. "
            "Check its quotation marks."
        )

    def test_rows_that_end_are_as_many_as_they_are(self, bench: Bench) -> None:
        rows = [(f"{number} " + "long\n" * 200_000, "ab"[number % 2]) for number in range(10)]
        bench.prepare({"train.csv": csv_bytes(rows), "validation.csv": csv_bytes(ROWS)})
        assert [row["text"] for row in bench.rows("train")] == [text for text, _ in rows]

    def test_marks_of_a_tsv_that_make_one_endless_row_are_text(self, bench: Bench) -> None:
        long = "b" * (MAX_LINE_CHARACTERS // 8)
        content = "label\ttext\n" + '"x\ta\n' + f'"\t"{long}\n' * 9
        validation = csv_bytes([('"', "z"), ('"x', "z")], header=("label", "text"))
        bench.prepare({"train.tsv": content.encode(), "validation.csv": validation})
        assert [row["text"] for row in bench.rows("train")] == ["a", *[f'"{long}'] * 9]

    @pytest.mark.parametrize(
        ("name", "content", "unit"),
        [
            ("train.csv", csv_bytes(ROWS), "lines"),
            ("train.jsonl", json_bytes([{"text": text, "label": label} for text, label in ROWS]), "lines"),
            ("train.tsv.gz", gzip.compress(b"\n" * 20), "lines"),
            ("train.parquet", parquet_bytes(text=pa.nulls(20), label=pa.nulls(20)), "rows"),
        ],
        ids=["csv", "jsonl", "blank lines", "nulls"],
    )
    def test_more_rows_than_are_taken(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, unit: str
    ) -> None:
        """Harm: a small file of empty rows has a worker read for hours."""
        monkeypatch.setattr(lines, "MAX_ROWS", 19)
        monkeypatch.setattr(tables, "MAX_ROWS", 19)
        failure = bench.fail({name: content})
        assert failure.code == "dataset_too_large"
        assert failure.message == f"{name} has more than 19 {unit}. Upload a smaller sample."

    @pytest.mark.parametrize("nulls", [pa.nulls(20_000), pa.nulls(20_000, pa.string()), pa.nulls(20_000, pa.bool_())])
    def test_parquet_values_that_take_no_room_count_all_the_same(self, bench: Bench, nulls: pa.Array) -> None:
        failure = bench.fail({"train.parquet": parquet_bytes(text=nulls, label=nulls)}, max_bytes=39_000)
        assert failure.code == "dataset_too_large"


class TestTicks:
    """Harm: a dataset that was deleted holds its worker until the last line is read."""

    @pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl"])
    def test_come_while_blank_lines_are_read_over(self, bench: Bench, name: str) -> None:
        content = gzip.compress(b"\n" * (3 * lines.TICK_CHARACTERS))
        with pytest.raises(Unwanted):
            bench.prepare({f"{name}.gz": content}, tick=Patience(3).tick)

    @pytest.mark.parametrize("name", ["train.csv", "train.tsv"])
    def test_come_while_rows_are_left_out(self, bench: Bench, name: str) -> None:
        separator = b"," if name.endswith("csv") else b"\t"
        rows = (separator + b" " * 1_000 + b"\n") * (4 * lines.TICK_CHARACTERS // 1_000)
        with pytest.raises(Unwanted):
            bench.prepare({name: b"text" + separator + b"label\n" + rows}, tick=Patience(3).tick)

    def test_come_while_nulls_of_parquet_are_read_over(self, bench: Bench) -> None:
        nulls = pa.nulls(3 * tables.PARQUET_BATCH_ROWS, pa.string())
        with pytest.raises(Unwanted):
            bench.prepare({"train.parquet": parquet_bytes(text=nulls, label=nulls)}, tick=Patience(3).tick)
