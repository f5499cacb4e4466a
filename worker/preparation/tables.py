"""One reader per upload format. Each names its columns, then streams the chosen ones row by row."""

import csv
import json
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.domain.quoting import quote, quote_all
from worker.preparation.columns import PAIR_NAMES, Columns
from worker.preparation.errors import PreparationFailed, Tick
from worker.preparation.lines import MAX_LINE_CHARACTERS, MAX_ROWS, Upload, text_lines, too_large

PARQUET_BATCH_ROWS = 4096
# As much of a batch as is written out at once.
PIECE_BYTES = 64 * 1024 * 1024


class Table(Protocol):
    """A file with named columns. `unit` is what messages count it in: lines or rows, from one."""

    columns: list[str]
    unit: str

    def rows(self, wanted: Columns) -> Iterator[tuple[int, list[Any]]]:
        """Yield (line or row number, the values of the columns `wanted`), checking each row's shape."""
        ...


def open_table(upload: Upload, *, max_bytes: int, tick: Tick) -> Table:
    """The reader for the file's suffix, its columns already read. It calls `tick` while it reads, rows or none."""
    match upload.format:
        case "csv":
            return DelimitedTable(upload, ",", max_bytes=max_bytes, tick=tick)
        case "tsv":
            return DelimitedTable(upload, "\t", max_bytes=max_bytes, tick=tick)
        case "jsonl" | "ndjson":
            return JsonLinesTable(upload, max_bytes=max_bytes, tick=tick)
        case "parquet":
            return ParquetTable(upload, max_bytes=max_bytes, tick=tick)
    raise PreparationFailed(
        "dataset_unknown_format",
        f"{upload.name} has the suffix {quote(upload.format)}; "
        "use .csv, .tsv, .jsonl or .ndjson (each also with .gz), or .parquet.",
    )


class DelimitedTable:
    """CSV as RFC 4180 has it, or TSV with or without quoting; the first line names the columns."""

    unit = "line"

    def __init__(self, upload: Upload, delimiter: str, *, max_bytes: int, tick: Tick) -> None:
        self._upload = upload
        self._delimiter = delimiter
        self._max_bytes = max_bytes
        self._tick = tick
        self._quoting: Any = csv.QUOTE_MINIMAL
        if delimiter == "\t" and not self._is_quoted():
            self._quoting = csv.QUOTE_NONE
        header = next(self._records(self._quoting), None)
        if header is None:
            raise PreparationFailed("dataset_empty", f"{upload.name} is empty. It needs a header line and rows.")
        self.columns = [name.strip() for name in header[1]]

    def rows(self, wanted: Columns) -> Iterator[tuple[int, list[Any]]]:
        places = [self.columns.index(name) for name in wanted.names]
        records = self._records(self._quoting)
        next(records)
        for number, record in records:
            if len(record) != len(self.columns):
                raise self._ragged(number, record)
            yield number, [record[place] for place in places]

    def _is_quoted(self) -> bool:
        """Whether the quotation marks of a TSV file quote.

        Many TSV files quote nothing, so a mark in one is a character of the text. Where reading quotes makes sense
        of every line they are quotes, where it does not they are text. But an opening mark of one row and a closing
        one of a later row make sense too, of all that lies between as one text: where a text goes over several
        lines and yet each line of the file is a whole row by itself, they are text as well.
        """
        widths: set[int] = set()
        has_long_texts = False
        try:
            for _, record in self._records(csv.QUOTE_MINIMAL):
                widths.add(len(record))
                has_long_texts = has_long_texts or any("\n" in field or "\r" in field for field in record)
        except PreparationFailed:
            return False
        if len(widths) > 1:
            return False
        return not has_long_texts or len({len(record) for _, record in self._records(csv.QUOTE_NONE)}) > 1

    def _records(self, quoting: Any) -> Iterator[tuple[int, list[str]]]:
        """Yield (line a record begins on, its fields); blank lines are skipped.

        Over however many lines and fields a record goes, it has no more characters than a line may have.
        """
        csv.field_size_limit(MAX_LINE_CHARACTERS)
        number, characters = 1, 0

        def lines() -> Iterator[str]:
            nonlocal characters
            for line in text_lines(self._upload, max_bytes=self._max_bytes, tick=self._tick):
                characters += len(line)
                if characters > MAX_LINE_CHARACTERS:
                    raise self._endless(number)
                yield line

        reader = csv.reader(lines(), delimiter=self._delimiter, quoting=quoting, strict=True)
        while True:
            number, characters = reader.line_num + 1, 0
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise self._bad_quotes(number, error) from None
            if record is None:
                return
            if record:
                yield number, record

    def _bad_quotes(self, number: int, error: csv.Error) -> PreparationFailed:
        return PreparationFailed(
            "dataset_ragged_line",
            f"The row that begins on line {number} of {self._upload.name} cannot be read ({error}). "
            'Put such fields in quotation marks, and double the marks inside them: "say ""hi""".',
        )

    def _endless(self, number: int) -> PreparationFailed:
        return PreparationFailed(
            "dataset_ragged_line",
            f"The row that begins on line {number} of {self._upload.name} does not end within {MAX_LINE_CHARACTERS} "
            "characters. Check its quotation marks.",
        )

    def _ragged(self, number: int, record: list[str]) -> PreparationFailed:
        more = len(record) > len(self.columns)
        separator = "a tab" if self._delimiter == "\t" else "a comma"
        hint = f"Put fields that contain {separator} in quotation marks." if more else "Fill in the missing fields."
        return PreparationFailed(
            "dataset_ragged_line",
            f"Line {number} of {self._upload.name} has {len(record)} fields, "
            f"the header has {len(self.columns)} ({quote_all(self.columns)}). {hint}",
        )


class JsonLinesTable:
    """One JSON object per line; the first object names the columns."""

    unit = "line"

    def __init__(self, upload: Upload, *, max_bytes: int, tick: Tick) -> None:
        self._upload = upload
        self._max_bytes = max_bytes
        self._tick = tick
        first = next(self._objects(), None)
        if first is None:
            raise PreparationFailed("dataset_empty", f"{upload.name} is empty. It needs one JSON object per line.")
        self._first_line = first[0]
        self.columns = list(first[1])

    def rows(self, wanted: Columns) -> Iterator[tuple[int, list[Any]]]:
        names = wanted.names
        # A second text that the first line lacks would be left out of every row without a word.
        late_pairs = [name for name in PAIR_NAMES if wanted.text_pair is None and name not in self.columns]
        for number, item in self._objects():
            for name in late_pairs:
                if item.get(name) is not None:
                    raise PreparationFailed(
                        "dataset_missing_column",
                        f"Line {number} of {self._upload.name} has {quote(name)}, line {self._first_line} has not. "
                        "Every line needs the same keys.",
                    )
            for name in names:
                if name not in item:
                    raise PreparationFailed(
                        "dataset_missing_column",
                        f"Line {number} of {self._upload.name} has no {quote(name)}; "
                        f"it has {quote_all(list(item)) or 'no keys'}. Every line needs the same keys.",
                    )
            yield number, [item[name] for name in names]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(text_lines(self._upload, max_bytes=self._max_bytes, tick=self._tick), 1):
            if line.isspace():
                continue
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._bad(number, f"is not JSON ({error})") from None
            if not isinstance(item, dict):
                raise self._bad(number, f"is {quote(line.strip())}, not an object")
            yield number, item

    def _bad(self, number: int, what: str) -> PreparationFailed:
        return PreparationFailed(
            "dataset_bad_json_line",
            f"Line {number} of {self._upload.name} {what}. "
            'Each line is one object, such as {"text": "…", "label": "…"}.',
        )


class ParquetTable:
    """A Parquet file, read in batches; texts are string columns.

    Repeated texts take next to no room in a file. They are counted, and bounded, before they are written out. So only
    columns of a type that can be counted so, or whose values are small, are read at all.
    """

    unit = "row"

    def __init__(self, upload: Upload, *, max_bytes: int, tick: Tick) -> None:
        self._upload = upload
        self._max_bytes = max_bytes
        self._tick = tick
        if upload.path.stat().st_size == 0:
            raise PreparationFailed("dataset_empty", f"{upload.name} is empty (0 bytes).")
        try:
            with pq.ParquetFile(upload.path) as file:
                self.columns = [str(name) for name in file.schema_arrow.names]
                self._types = {field.name: field.type for field in file.schema_arrow}
        except (pa.ArrowException, OSError) as error:
            raise self._bad(error) from None

    def rows(self, wanted: Columns) -> Iterator[tuple[int, list[Any]]]:
        self._check_types(wanted)
        names = wanted.names
        number, size_bytes = 0, 0
        texts = [name for name in names if _is_text(self._types[name])]
        try:
            with pq.ParquetFile(self._upload.path, read_dictionary=texts) as file:
                for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=names):
                    self._tick()
                    size_bytes += _unpacked_bytes(batch)
                    self._check_size(size_bytes, number + batch.num_rows)
                    self._check_lengths(batch, wanted, number)
                    for piece in _pieces(batch):
                        columns = [_values(piece.column(name)) for name in names]
                        for values in zip(*columns, strict=True):
                            number += 1
                            yield number, list(values)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._bad(error) from None

    def _check_types(self, wanted: Columns) -> None:
        for name in wanted.names:
            kind = self._types[name]
            if _is_text(kind) or _is_small(kind):
                continue
            raise PreparationFailed(
                "dataset_bad_label" if name == wanted.label else "dataset_bad_text",
                f"{self._upload.name} has {quote(name)} as a column of type {quote(kind)}; "
                f"{'labels are strings, whole numbers or booleans' if name == wanted.label else 'texts are strings'}. "
                "Cast it (in pyarrow: column.cast(pyarrow.string())) and upload the file again.",
            )

    def _check_size(self, size_bytes: int, rows: int) -> None:
        if size_bytes > self._max_bytes:
            raise too_large(self._upload, f"unpacks to more than {self._max_bytes} bytes (row {rows})")
        if rows > MAX_ROWS:
            raise too_large(self._upload, f"has more than {MAX_ROWS} rows")

    def _check_lengths(self, batch: pa.RecordBatch, wanted: Columns, rows_before: int) -> None:
        for name in wanted.names:
            place = _first_long(batch.column(name)) if _is_text(self._types[name]) else None
            if place is not None:
                raise PreparationFailed(
                    "dataset_bad_label" if name == wanted.label else "dataset_bad_text",
                    f"Row {rows_before + place + 1} of {self._upload.name}: {quote(name)} is longer than "
                    f"{MAX_LINE_CHARACTERS} characters. Shorten it, or leave the row out.",
                )

    def _bad(self, error: Exception) -> PreparationFailed:
        return PreparationFailed(
            "dataset_bad_parquet",
            f"{self._upload.name} cannot be read as Parquet ({str(error).splitlines()[0]}). "
            "Write it again and upload it again.",
        )


def _is_text(data_type: pa.DataType) -> bool:
    kind = _value_type(data_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_small(data_type: pa.DataType) -> bool:
    """Whether a value takes a few bytes, however the file is made."""
    kind = _value_type(data_type)
    return (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def _value_type(data_type: pa.DataType) -> pa.DataType:
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def _unpacked_bytes(batch: pa.RecordBatch) -> int:
    return sum(map(_column_bytes, batch.columns))


def _column_bytes(column: pa.Array) -> int:
    """At least one for each value: what takes none is read row by row all the same."""
    if pa.types.is_dictionary(column.type) and _is_text(column.type):
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
        return max(len(column), int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0))
    return max(len(column), int(column.nbytes))


def _first_long(texts: pa.DictionaryArray) -> int | None:
    """The place of the first text of more than MAX_LINE_CHARACTERS characters, found without writing any out."""
    longest_bytes = pc.max(pc.binary_length(texts.dictionary)).as_py() or 0
    # Bytes are known without a look at the texts, and a text has no more characters than bytes.
    if longest_bytes <= MAX_LINE_CHARACTERS:
        return None
    is_long = pc.greater(pc.utf8_length(texts.dictionary), MAX_LINE_CHARACTERS)
    place = pc.index(pc.take(is_long, texts.indices), True).as_py()
    return None if place < 0 else int(place)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that are small enough to be written out, in their order."""
    if batch.num_rows <= 1 or _unpacked_bytes(batch) <= PIECE_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return list(column.to_pylist())
