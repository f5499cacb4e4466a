"""Uploads of every format become the same prepared folder, and every bad one says what and where."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.quoting import quote
from tests.worker.preparation.uploads import ROWS, Bench, csv_bytes, json_bytes, parquet_bytes
from worker.preparation.datasets import sort_labels
from worker.preparation.splits import validation_mask

# As Parquet names what a list is of.
LIST = pa.list_(pa.field("element", pa.string()))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("train.csv", csv_bytes(ROWS)),
            ("train.csv.gz", gzip.compress(csv_bytes(ROWS))),
            ("train.tsv", csv_bytes(ROWS, delimiter="\t")),
            ("train.TSV.gz", gzip.compress(csv_bytes(ROWS, delimiter="\t"))),
            ("train.jsonl", json_bytes([{"text": text, "label": label} for text, label in ROWS])),
            ("train.ndjson.gz", gzip.compress(json_bytes([{"label": label, "text": text} for text, label in ROWS]))),
            ("train.parquet", parquet_bytes(text=[text for text, _ in ROWS], label=[label for _, label in ROWS])),
        ],
        # By content a test would have another name from second to second, which gzip notes, and in each process.
        ids=["csv", "csv.gz", "tsv", "TSV.gz", "jsonl", "ndjson.gz", "parquet"],
    )
    def test_every_format_gives_the_same_rows_and_the_same_hash(
        self, bench: Bench, tmp_path: Path, name: str, content: bytes
    ) -> None:
        prepared = bench.prepare({name: content})
        reference = Bench(tmp_path / "reference")
        reference.folder.mkdir()
        expected = reference.prepare({"train.csv": csv_bytes(ROWS)})

        assert prepared.sha256 == expected.sha256
        assert bench.rows("train") == reference.rows("train")
        assert prepared.labels == ["a", "b"]

    def test_writes_a_folder_that_the_engine_reads(self, bench: Bench) -> None:
        prepared = bench.prepare({"train.csv": csv_bytes(ROWS), "test.csv": csv_bytes([("hold", "a")])})

        assert sorted(path.name for path in bench.prepared.iterdir()) == [
            "dataset.json",
            "test.parquet",
            "train.parquet",
            "validation.parquet",
        ]
        assert json.loads((bench.prepared / "dataset.json").read_text()) == {
            "format_version": 1,
            "labels": ["a", "b"],
            "has_pairs": False,
            "rows": {"train": 18, "validation": 2, "test": 1},
            "validation_made": True,
            "sha256": prepared.sha256,
        }
        assert pq.read_schema(bench.prepared / "train.parquet").field("label").type == pa.int32()
        assert bench.rows("test") == [{"text": "hold", "label": 0}]

    def test_quoted_fields_keep_commas_quotes_and_line_ends(self, bench: Bench) -> None:
        text = 'one, "two"\nthree'
        bench.prepare({"train.csv": csv_bytes([*ROWS, (text, "a")]), "validation.csv": csv_bytes(ROWS)})
        assert bench.rows("train")[-1]["text"] == text

    def test_tsv_without_quoting_keeps_quotation_marks_as_text(self, bench: Bench) -> None:
        content = 'text\tlabel\n"open quote\ta\nsay "hi" now\tb\n' * 1 + "more\ta\nmore\tb\n"
        bench.prepare({"train.tsv": content.encode(), "validation.csv": csv_bytes(ROWS)})
        assert [row["text"] for row in bench.rows("train")][:2] == ['"open quote', 'say "hi" now']

    def test_marks_of_a_tsv_that_open_in_one_row_and_close_in_another_lose_none(self, bench: Bench) -> None:
        """Harm: three rows become one text, with the label of the last, and nobody is told."""
        lines = ['"Go home\ta', "she left\tb", 'he said"\tb', "more\ta", "", "and more\ta"]
        content = "text\tlabel\n" + "".join(f"{line}\n" for line in lines)
        bench.prepare({"train.tsv": content.encode(), "validation.csv": csv_bytes(ROWS)})
        rows = [(row["text"], "ab"[row["label"]]) for row in bench.rows("train")]
        assert rows == [('"Go home', "a"), ("she left", "b"), ('he said"', "b"), ("more", "a"), ("and more", "a")]

    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_quoted_fields_of_a_tsv_keep_tabs_quotes_and_line_ends(self, bench: Bench, line_end: str) -> None:
        texts = [f'one, "two"{line_end}three', f"tab\there{line_end}{line_end}and on", '"quoted"', "a\tb"]
        content = csv_bytes([*ROWS, *((text, "a") for text in texts)], delimiter="\t")
        bench.prepare({"train.tsv": content, "validation.csv": csv_bytes(ROWS)})
        assert [row["text"] for row in bench.rows("train")][len(ROWS) :] == texts

    def test_byte_order_mark_blank_lines_and_old_line_ends_are_read_over(self, bench: Bench) -> None:
        content = b"\xef\xbb\xbf" + csv_bytes(ROWS).replace(b"\r\n", b"\r") + b"\r\r"
        assert bench.prepare({"train.csv": content}).rows == {"train": 18, "validation": 2}

    def test_numeric_labels_stand_in_numeric_order(self, bench: Bench) -> None:
        rows = [{"text": f"row {number}", "label": number % 11} for number in range(44)]
        prepared = bench.prepare({"train.jsonl": json_bytes(rows)})
        assert prepared.labels == [str(number) for number in range(11)]

    def test_whole_floats_in_parquet_are_the_classes_of_their_integers(self, bench: Bench) -> None:
        texts = [f"row {number}" for number in range(20)]
        prepared = bench.prepare({"train.parquet": parquet_bytes(text=texts, label=[0.0, 1.0] * 10)})
        assert prepared.labels == ["0", "1"]

    def test_hash_is_of_the_content_so_a_changed_label_changes_it(self, bench: Bench) -> None:
        first = bench.prepare({"train.csv": csv_bytes(ROWS)}).sha256
        changed = bench.prepare({"train.csv": csv_bytes([*ROWS[:-1], (ROWS[-1][0], "b")])}).sha256
        assert first != changed


class TestColumns:
    def test_pairs_are_found_by_their_usual_names(self, bench: Bench) -> None:
        rows = [{"sentence1": f"is it {n}?", "sentence2": f"it is {n}", "label": n % 2} for n in range(20)]
        prepared = bench.prepare({"train.jsonl": json_bytes(rows)})
        assert (prepared.columns.text, prepared.columns.text_pair) == ("sentence1", "sentence2")
        assert bench.rows("train")[0] == {"text": "is it 0?", "text_pair": "it is 0", "label": 0}

    def test_named_columns_win_over_usual_names(self, bench: Bench) -> None:
        rows = [("no", text, label) for text, label in ROWS]
        content = csv_bytes(rows, header=("text", "utterance", "intent"))
        prepared = bench.prepare({"train.csv": content}, text_column="utterance", label_column="intent")
        assert prepared.columns.names == ["utterance", "intent"]
        assert bench.rows("train")[0]["text"].startswith(("buy", "sell"))

    def test_missing_column_names_what_the_file_has(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS, header=("text", "intent"))})
        assert failure.code == "dataset_missing_column"
        assert failure.message == (
            "train.csv has no column 'label'; its first line names 'text', 'intent'. "
            "Rename a column, or name it in label_column."
        )

    def test_missing_column_in_a_second_file_names_that_file(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS), "test.csv": csv_bytes(ROWS, header=("sentence", "label"))})
        assert failure.code == "dataset_missing_column"
        assert failure.message.startswith("test.csv has no column 'text'")

    def test_missing_key_names_the_line(self, bench: Bench) -> None:
        failure = bench.fail({"train.jsonl": json_bytes([{"text": "x", "label": "a"}, {"text": "y"}])})
        assert failure.code == "dataset_missing_column"
        assert failure.message.startswith("Line 2 of train.jsonl has no 'label'")

    def test_second_texts_that_the_first_line_lacks_are_refused(self, bench: Bench) -> None:
        """Harm: every second text is left out, and the pairs are learnt as single texts."""
        rows = [{"text": f"text {n}", "text_pair": f"pair {n}", "label": n % 2} for n in range(20)]
        del rows[0]["text_pair"]
        failure = bench.fail({"train.jsonl": b"\n" + json_bytes(rows)})
        assert failure.code == "dataset_missing_column"
        assert failure.message == (
            "Line 3 of train.jsonl has 'text_pair', line 2 has not. Every line needs the same keys."
        )

    def test_other_keys_that_the_first_line_lacks_are_read_over(self, bench: Bench) -> None:
        rows = [{"text": f"text {n}", "answer": f"pair {n}", "label": n % 2} for n in range(20)]
        rows[1] |= {"note": "checked", "text_b": "unused"}
        bench.prepare({"train.jsonl": json_bytes(rows)}, text_pair_column="answer")
        assert bench.rows("train")[0] == {"text": "text 0", "text_pair": "pair 0", "label": 0}

    def test_later_lines_may_have_an_empty_second_text(self, bench: Bench) -> None:
        """Harm: two exports put together are refused, though no line of theirs has a second text."""
        rows = [{"text": f"text {n}", "label": n % 2} for n in range(20)]
        rows[1] |= {"text_pair": None}
        assert bench.prepare({"train.jsonl": json_bytes(rows)}).columns.text_pair is None

    def test_semicolons_are_recognised(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS, delimiter=";")})
        assert "separated by semicolons" in failure.message

    def test_doubled_column_is_refused(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": b"text,label,text\na,b,c\n"})
        assert "'text' 2 times" in failure.message


class TestBadFiles:
    @pytest.mark.parametrize("content", [b"", b"\n\n", b"text,label\n"])
    def test_empty(self, bench: Bench, content: bytes) -> None:
        failure = bench.fail({"train.csv": content})
        assert failure.code == "dataset_empty"
        assert "train.csv" in failure.message

    @pytest.mark.parametrize("name", ["train.jsonl", "train.csv.gz", "train.parquet"])
    def test_empty_in_other_formats(self, bench: Bench, name: str) -> None:
        assert bench.fail({name: b""}).code == "dataset_empty"

    def test_parquet_without_rows(self, bench: Bench) -> None:
        content = parquet_bytes(text=pa.array([], pa.string()), label=pa.array([], pa.string()))
        assert bench.fail({"train.parquet": content}).code == "dataset_empty"

    def test_binary(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": b"text,label\n\x89PNG\x1a\x00\x00"})
        assert failure.code == "dataset_binary"
        assert "0x00 on line 2" in failure.message

    @pytest.mark.parametrize("rows_before", [0, 1_000], ids=["at the top", "deep inside"])
    def test_control_characters_other_than_nul_are_text(self, bench: Bench, rows_before: int) -> None:
        """Harm: a table whose first lines have a soft line break of a word processor is called binary."""
        controls = "".join(chr(code) for code in range(1, 32) if chr(code) not in "\t\n\r")
        rows = [*ROWS * (rows_before // len(ROWS)), (f"soft{controls}break", "a"), ("tab\tand bell\a", "b")]
        bench.prepare({"train.csv": csv_bytes(rows), "validation.csv": csv_bytes(ROWS)})
        assert [row["text"] for row in bench.rows("train")] == [text for text, _ in rows]

    def test_binary_deep_inside(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS * 1000) + b"zero \x00 byte,a\r\n"})
        assert failure.code == "dataset_binary"
        assert "line 20002" in failure.message

    @pytest.mark.parametrize(
        ("content", "hint"),
        [(parquet_bytes(text=["x"]), ".parquet"), (gzip.compress(b"x"), "add .gz"), (b"PK\x03\x04", "spreadsheet")],
        ids=["parquet", "gzip", "zip"],
    )
    def test_another_format_under_a_text_name(self, bench: Bench, content: bytes, hint: str) -> None:
        failure = bench.fail({"train.csv": content})
        assert failure.code == "dataset_binary"
        assert hint in failure.message

    def test_not_utf8_names_the_line_and_the_byte(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS) + "café,a\r\n".encode("latin-1")})
        assert failure.code == "dataset_not_utf8"
        assert failure.message.startswith("Line 22 of train.csv is not UTF-8: byte 0xe9 at character 4")

    def test_utf16_is_named(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes(ROWS).decode().encode("utf-16")})
        assert failure.code == "dataset_not_utf8"
        assert "UTF-16" in failure.message

    def test_half_a_surrogate_pair_in_json(self, bench: Bench) -> None:
        failure = bench.fail({"train.jsonl": b'{"text": "\\ud800", "label": "a"}\n'})
        assert failure.code == "dataset_not_utf8"
        assert failure.message.startswith("Line 1 of train.jsonl")

    def test_ragged_line_names_its_number(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": b'text,label\n"two\nlines",a\nplain, with comma,b\n'})
        assert failure.code == "dataset_ragged_line"
        assert failure.message == (
            "Line 4 of train.csv has 3 fields, the header has 2 ('text', 'label'). "
            "Put fields that contain a comma in quotation marks."
        )

    def test_short_line(self, bench: Bench) -> None:
        failure = bench.fail({"train.tsv": b"text\tlabel\nx\ta\nno label\n"})
        assert failure.code == "dataset_ragged_line"
        assert "Line 3" in failure.message
        assert "Fill in the missing fields" in failure.message

    def test_quote_that_never_closes_names_the_line_it_opened_on(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": b'text,label\nx,a\n"never closed,b\ny,a\n'})
        assert failure.code == "dataset_ragged_line"
        assert "begins on line 3 of train.csv" in failure.message

    def test_bad_json_line(self, bench: Bench) -> None:
        failure = bench.fail({"train.jsonl": b'{"text": "x", "label": "a"}\n\n{"text": oops}\n'})
        assert failure.code == "dataset_bad_json_line"
        assert failure.message.startswith("Line 3 of train.jsonl is not JSON")

    def test_json_line_that_is_no_object(self, bench: Bench) -> None:
        failure = bench.fail({"train.jsonl": b'["x", "a"]\n'})
        assert failure.code == "dataset_bad_json_line"
        assert "not an object" in failure.message

    def test_bad_parquet(self, bench: Bench) -> None:
        failure = bench.fail({"train.parquet": parquet_bytes(text=["x"], label=["a"])[:-9]})
        assert failure.code == "dataset_bad_parquet"

    @pytest.mark.parametrize("content", [b"plain text", gzip.compress(csv_bytes(ROWS))[:-10]], ids=["plain", "cut"])
    def test_bad_gzip(self, bench: Bench, content: bytes) -> None:
        failure = bench.fail({"train.csv.gz": content})
        assert failure.code == "dataset_bad_gzip"
        assert "train.csv.gz" in failure.message

    @pytest.mark.parametrize(
        "text_type",
        [pa.binary(), pa.large_binary(), pa.binary(1), LIST, pa.dictionary(pa.int32(), pa.binary())],
        ids=str,
    )
    def test_parquet_column_that_holds_no_texts(self, bench: Bench, text_type: pa.DataType) -> None:
        text: Any = ["x"] if pa.types.is_list(text_type) else b"x"
        failure = bench.fail({"train.parquet": parquet_bytes(text=pa.array([text] * 4, text_type), label=[*"abab"])})
        assert failure.code == "dataset_bad_text"
        assert failure.message == (
            f"train.parquet has 'text' as a column of type {quote(text_type)}; texts are strings. "
            "Cast it (in pyarrow: column.cast(pyarrow.string())) and upload the file again."
        )

    def test_parquet_column_that_holds_no_labels(self, bench: Bench) -> None:
        labels = pa.array([1, 2, 1, 2], pa.timestamp("us"))
        failure = bench.fail({"train.parquet": parquet_bytes(text=[*"wxyz"], label=labels)})
        assert failure.code == "dataset_bad_label"
        assert failure.message.startswith(
            "train.parquet has 'label' as a column of type 'timestamp[us]'; labels are strings, whole numbers"
        )

    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            (pa.array([0, 1] * 10, pa.uint8()), ["0", "1"]),
            (pa.array([0, 1] * 10, pa.int64()).dictionary_encode(), ["0", "1"]),
            (pa.array([0.0, 1.0] * 10, pa.float32()), ["0", "1"]),
            (pa.array([False, True] * 10), ["false", "true"]),
            (pa.array(["a", "b"] * 10).dictionary_encode(), ["a", "b"]),
        ],
        ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
    )
    def test_parquet_labels_of_every_type(self, bench: Bench, labels: pa.Array, names: list[str]) -> None:
        texts = [f"row {number}" for number in range(20)]
        assert bench.prepare({"train.parquet": parquet_bytes(text=texts, label=labels)}).labels == names

    def test_text_that_is_a_number(self, bench: Bench) -> None:
        failure = bench.fail({"train.jsonl": json_bytes([{"text": 5, "label": "a"}])})
        assert failure.code == "dataset_bad_text"
        assert failure.message.startswith("Line 1 of train.jsonl: 'text' is '5' of type int")

    def test_label_that_is_a_fraction(self, bench: Bench) -> None:
        failure = bench.fail({"train.parquet": parquet_bytes(text=["x", "y"], label=[0.25, 1.0])})
        assert failure.code == "dataset_bad_label"
        assert failure.message.startswith("Row 1 of train.parquet: 'label' is '0.25'")


class TestBadContent:
    def test_one_class(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes([("x", "only"), ("y", "only")])})
        assert failure.code == "dataset_one_class"
        assert "'only'" in failure.message

    def test_tenth_of_empty_rows_is_refused_with_their_lines(self, bench: Bench) -> None:
        rows = [*ROWS[:18], (" ", "a"), ("text", "")]
        failure = bench.fail({"train.csv": csv_bytes(rows)})
        assert failure.code == "dataset_empty_rows"
        assert failure.message.startswith("2 of 20 rows of train.csv have an empty text or label (lines 20, 21)")

    def test_fewer_empty_rows_are_left_out_with_a_warning(self, bench: Bench) -> None:
        prepared = bench.prepare({"train.csv": csv_bytes([*ROWS, ("", "a")])})
        assert sum(prepared.rows.values()) == 20
        assert prepared.warnings == [
            "1 of 21 rows of train.csv have an empty text or label (line 22); they were left out."
        ]

    @pytest.mark.parametrize("asked", [{}, {"text_pair_column": "text_b"}])
    def test_second_text_that_is_empty_in_every_row_is_refused_by_its_column(
        self, bench: Bench, asked: dict[str, str]
    ) -> None:
        """Harm: nobody asked for pairs, and whoever looks through the texts for empty ones finds none."""
        rows = [(text, " ", label) for text, label in ROWS]
        failure = bench.fail({"train.csv": csv_bytes(rows, ("text", "text_b", "label"))}, **asked)
        assert failure.code == "dataset_empty_rows"
        assert failure.message.startswith(
            "train.csv has the column 'text_b' for the second text of a pair, and it is empty in every row. "
            "Remove or rename the column"
        )

    def test_second_texts_of_which_most_are_empty_are_told_by_their_lines(self, bench: Bench) -> None:
        rows = [(text, "" if number else "a", label) for number, (text, label) in enumerate(ROWS)]
        failure = bench.fail({"train.csv": csv_bytes(rows, ("text", "text_b", "label"))})
        assert failure.message.startswith("19 of 20 rows of train.csv have an empty text or label (lines 3, 4, ")

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_labels_that_training_never_saw(self, bench: Bench, split: str) -> None:
        other = csv_bytes([("x", "a"), ("y", "maybe"), ("z", "never")])
        failure = bench.fail({"train.csv": csv_bytes(ROWS), f"{split}.csv": other})
        assert failure.code == "dataset_unseen_labels"
        assert failure.message.startswith(
            f"{split}.csv has labels that train.csv has not: 'maybe', 'never' (first on line 3)"
        )

    def test_single_row_of_a_class_when_a_split_must_be_made(self, bench: Bench) -> None:
        failure = bench.fail({"train.csv": csv_bytes([*ROWS, ("once", "rare")])})
        assert failure.code == "dataset_too_few_rows"
        assert "'rare'" in failure.message

    def test_single_row_of_a_class_is_enough_beside_a_validation_file(self, bench: Bench) -> None:
        files = {"train.csv": csv_bytes([*ROWS, ("once", "rare")]), "validation.csv": csv_bytes(ROWS[:4])}
        assert bench.prepare(files).rows == {"train": 21, "validation": 4}

    def test_a_made_validation_split_is_the_one_that_it_always_was(self) -> None:
        """Harm: the same upload after an upgrade is another dataset, and its jobs compare no more."""
        labels, texts = np.arange(40) % 3, np.arange(40, dtype=np.uint64)
        assert np.flatnonzero(validation_mask(labels, texts)).tolist() == [23, 30, 34]

    def test_a_made_validation_split_that_repeats_train_is_a_warning(self, bench: Bench) -> None:
        repeated = [("always this", "a"), ("always that", "b")] * 30
        prepared = bench.prepare({"train.csv": csv_bytes(repeated)})
        assert len(prepared.warnings) == 1
        assert "6 of the 6 validation rows" in prepared.warnings[0]

    def test_the_warning_of_a_made_split_names_lines_of_its_rows(self, bench: Bench) -> None:
        rows = [(f"twice {number // 2}", "ab"[number // 2 % 2]) for number in range(160)]
        prepared = bench.prepare({"train.csv": csv_bytes(rows)})
        (warning,) = prepared.warnings
        (named,) = re.findall(r"left of it \(lines ([\d, ]+), …\), because", warning)
        lines = [int(line) for line in named.split(", ")]
        assert len(lines) == 5
        assert lines == sorted(set(lines))
        left = {row["text"] for row in bench.rows("train")}
        shared = [row["text"] for row in bench.rows("validation") if row["text"] in left]
        # The first line names the columns.
        assert [rows[line - 2][0] for line in lines] == shared[:5]

    def test_test_rows_that_stand_in_train_are_a_warning(self, bench: Bench) -> None:
        prepared = bench.prepare({"train.csv": csv_bytes(ROWS), "test.csv": csv_bytes([*ROWS[:3], ("new", "a")])})
        assert prepared.warnings == [
            "3 of 4 rows of test.csv also stand in train.csv (lines 2, 3, 4); "
            "numbers measured on them flatter the model."
        ]

    @pytest.mark.parametrize(
        ("repeated", "where"), [(1, "line 8"), (5, "lines 8, 9, 10, 11, 12"), (6, "lines 8, 9, 10, 11, 12, …")]
    )
    def test_the_warning_names_the_first_rows_by_their_lines_in_the_file(
        self, bench: Bench, repeated: int, where: str
    ) -> None:
        """Harm: rows are removed that are not the ones, because the lines that hold none were not counted."""
        new = [("goes over\ntwo lines", "a"), ("new", "b"), ("", "a")]
        content = csv_bytes([*new, *[(f"other {number}", "a") for number in range(20)]])
        head, tail = content[: content.index(b"other 0")], content[content.index(b"other 0") :]
        test = head + b"\r\n\r\n" + csv_bytes(ROWS[:repeated]).partition(b"\r\n")[2] + tail
        warnings = bench.prepare({"train.csv": csv_bytes(ROWS), "test.csv": test}).warnings
        assert f"{repeated} of {repeated + 22} rows of test.csv also stand in train.csv ({where})" in warnings[-1]

    def test_the_warning_counts_a_parquet_file_in_rows(self, bench: Bench) -> None:
        test = parquet_bytes(text=["new", *[text for text, _ in ROWS[:2]]], label=["a", "b", "a"])
        prepared = bench.prepare({"train.csv": csv_bytes(ROWS), "test.parquet": test})
        assert "test.parquet also stand in train.csv (rows 2, 3);" in prepared.warnings[0]


def texts_csv(*texts: str) -> bytes:
    return csv_bytes([(text,) for text in texts], header=("text",))


class TestUnlabelled:
    def test_texts_are_kept_without_a_label_and_the_other_splits_are_what_they_were(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        alone = Bench(tmp_path / "alone")
        alone.folder.mkdir()
        without = alone.prepare({"train.csv": csv_bytes(ROWS)})

        prepared = bench.prepare({"unlabelled.csv": texts_csv("lend", "keep"), "train.csv": csv_bytes(ROWS)})

        assert prepared.rows == without.rows | {"unlabelled": 2}
        assert bench.rows("unlabelled") == [{"text": "lend"}, {"text": "keep"}]
        for split in ("train", "validation"):
            assert bench.rows(split) == alone.rows(split)
        assert prepared.sha256 != without.sha256
        # An engine that would not read them is not to take the rest for the whole.
        versions = [
            json.loads((each / "dataset.json").read_text())["format_version"]
            for each in (alone.prepared, bench.prepared)
        ]
        assert versions == [1, 2]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("unlabelled.jsonl", json_bytes([{"text": "lend", "label": 3.5}, {"text": "keep"}])),
            ("unlabelled.parquet", parquet_bytes(text=["lend", "keep"], label=[[1], [2]])),
            ("unlabelled.tsv", csv_bytes([("lend", ""), ("keep", "")], header=("text", "label"), delimiter="\t")),
        ],
        ids=["jsonl", "parquet", "tsv"],
    )
    def test_of_every_format_a_label_is_not_read(self, bench: Bench, tmp_path: Path, name: str, content: bytes) -> None:
        reference = Bench(tmp_path / "reference")
        reference.folder.mkdir()
        files = {"train.csv": csv_bytes(ROWS)}
        expected = reference.prepare(files | {"unlabelled.csv": texts_csv("lend", "keep")})
        assert bench.prepare(files | {name: content}).sha256 == expected.sha256

    def test_pairs_have_both_texts(self, bench: Bench) -> None:
        rows = [(text, "because", label) for text, label in ROWS]
        train = csv_bytes(rows, header=("text", "text_pair", "label"))
        more = [{"text": "lend", "text_pair": "why"}]
        bench.prepare({"train.csv": train, "unlabelled.jsonl": json_bytes(more)})
        assert bench.rows("unlabelled") == more
        error = bench.fail({"train.csv": train, "unlabelled.csv": texts_csv("lend")})
        assert error.code == "dataset_missing_column"
        assert "unlabelled.csv has no column 'text_pair'" in str(error)

    def test_second_texts_that_no_training_row_has_are_refused(self, bench: Bench) -> None:
        more = json_bytes([{"text": "lend"}, {"text": "keep", "text_pair": "why"}])
        assert "Line 2 of unlabelled.jsonl" in str(bench.fail({"train.csv": csv_bytes(ROWS), "unlabelled.jsonl": more}))

    def test_empty_texts_are_left_out_with_a_warning_or_refused(self, bench: Bench) -> None:
        train = {"train.csv": csv_bytes(ROWS)}
        texts = [f"text {number}" for number in range(11)]
        prepared = bench.prepare(train | {"unlabelled.csv": texts_csv(*texts, " ")})
        assert prepared.rows["unlabelled"] == 11
        assert prepared.warnings == ["1 of 12 rows of unlabelled.csv have an empty text (line 13); they were left out."]
        error = bench.fail(train | {"unlabelled.csv": texts_csv("lend", " ")})
        assert error.code == "dataset_empty_rows"

    def test_a_file_without_rows_is_refused(self, bench: Bench) -> None:
        error = bench.fail({"train.csv": csv_bytes(ROWS), "unlabelled.csv": b"text\n"})
        assert error.code == "dataset_empty"
        assert "two rows for each class" not in str(error)

    def test_held_out_texts_among_them_are_a_warning(self, bench: Bench) -> None:
        """Harm: whoever sends all texts that there are is told how well the student knows those that it learnt."""
        held_out = [("new", "a"), ("newer", "b")]
        more = texts_csv("lend", "newer", ROWS[0][0])
        prepared = bench.prepare(
            {"train.csv": csv_bytes(ROWS), "validation.csv": csv_bytes(held_out), "unlabelled.csv": more}
        )
        assert prepared.warnings == [
            "1 of 2 rows of validation.csv also stand in unlabelled.csv (line 3); "
            "numbers measured on them flatter the model."
        ]

    def test_so_are_those_of_a_validation_split_that_was_made(self, bench: Bench) -> None:
        bench.prepare({"train.csv": csv_bytes(ROWS)})
        taken = bench.rows("validation")[0]["text"]
        line = [text for text, _ in ROWS].index(taken) + 2
        prepared = bench.prepare({"train.csv": csv_bytes(ROWS), "unlabelled.csv": texts_csv("lend", taken)})
        [warning] = prepared.warnings
        assert warning.startswith(
            f"1 of the 2 validation rows taken from train.csv also stand in unlabelled.csv (line {line} of train.csv);"
        )


class TestValidationSplit:
    def test_takes_a_tenth_of_every_class(self, bench: Bench) -> None:
        rows = [
            (f"{label} {number}", label)
            for label, count in (("big", 300), ("mid", 40), ("small", 2))
            for number in range(count)
        ]
        prepared = bench.prepare({"train.csv": csv_bytes(rows)})
        labels = [prepared.labels[row["label"]] for row in bench.rows("validation")]
        assert {label: labels.count(label) for label in prepared.labels} == {"big": 30, "mid": 4, "small": 1}
        assert prepared.rows == {"train": 307, "validation": 35}

    def test_loses_and_doubles_no_row(self, bench: Bench) -> None:
        bench.prepare({"train.csv": csv_bytes(ROWS)})
        texts = [row["text"] for split in ("train", "validation") for row in bench.rows(split)]
        assert sorted(texts) == sorted(text for text, _ in ROWS)

    def test_is_the_same_every_time(self, bench: Bench) -> None:
        bench.prepare({"train.csv": csv_bytes(ROWS)})
        first = bench.rows("validation")
        bench.prepare({"train.csv": csv_bytes(ROWS)})
        assert bench.rows("validation") == first

    def test_prefers_rows_without_a_twin_in_train(self, bench: Bench) -> None:
        rows = [("twin", label) for label in "ab" for _ in range(40)] + [(f"own {label}", label) for label in "ab" * 1]
        rows += [(f"also {label}", label) for label in "ab"]
        bench.prepare({"train.csv": csv_bytes(rows)})
        texts = [row["text"] for row in bench.rows("validation")]
        assert texts.count("twin") == len(texts) - 4


class TestSortLabels:
    def test_numbers_by_value_and_names_by_letters(self) -> None:
        assert sort_labels(["10", "9", "-1"]) == ["-1", "9", "10"]
        assert sort_labels(["10", "9", "x"]) == ["10", "9", "x"]

    def test_whole_numbers_with_a_point_by_value_and_under_their_names(self) -> None:
        """Harm: pandas writes the classes of a column with gaps as 0.0, 1.0, …, and a teacher's outputs, taken in the
        order of the classes, are those of others from the eleventh on."""
        names = ["10.0", "9.0", "2", "-1.0", "1.00"]
        assert sort_labels(names) == ["-1.0", "1.00", "2", "9.0", "10.0"]
        assert sort_labels(["10.5", "9.0"]) == ["10.5", "9.0"]
