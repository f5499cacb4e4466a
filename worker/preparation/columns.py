"""Which columns hold the text, the second text of a pair, and the label."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.quoting import quote, quote_all
from worker.preparation.errors import PreparationFailed
from worker.preparation.lines import Upload

TEXT_NAMES = ("text", "sentence", "text_a", "sentence1")
PAIR_NAMES = ("text_pair", "sentence2", "text_b")
LABEL_NAMES = ("label",)


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset; `text_pair` is None where a row is one text, `label` where nobody gave one."""

    text: str
    text_pair: str | None
    label: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.text, self.text_pair, self.label) if name is not None]


def choose_columns(
    upload: Upload, available: Sequence[str], *, text: str | None, text_pair: str | None, label: str | None
) -> Columns:
    """Take the columns asked for; those not asked for are found by their usual names."""
    return Columns(
        text=text or _first(upload, available, TEXT_NAMES, "text_column"),
        text_pair=text_pair or next((name for name in PAIR_NAMES if name in available and name != text), None),
        label=label or _first(upload, available, LABEL_NAMES, "label_column"),
    )


def check_columns(upload: Upload, available: Sequence[str], columns: Columns) -> None:
    """Refuse a file that lacks one of the columns, or has one twice."""
    for name in columns.names:
        if name not in available:
            raise _missing(upload, available, f"no column {quote(name)}")
        if list(available).count(name) > 1:
            raise PreparationFailed(
                "dataset_missing_column",
                f"{upload.name} has the column {quote(name)} {list(available).count(name)} times. Rename all but one.",
            )
    if len(set(columns.names)) < len(columns.names):
        raise PreparationFailed(
            "dataset_missing_column",
            f"text_column, text_pair_column and label_column must differ; they are {quote_all(columns.names)}.",
        )


def _first(upload: Upload, available: Sequence[str], usual: Sequence[str], parameter: str) -> str:
    found = next((name for name in usual if name in available), None)
    if found is None:
        raise _missing(upload, available, f"no column {' or '.join(map(quote, usual))}", parameter)
    return found


def _missing(upload: Upload, available: Sequence[str], what: str, parameter: str = "") -> PreparationFailed:
    hint = f"Rename a column, or name it in {parameter or 'text_column, text_pair_column or label_column'}."
    if len(available) == 1 and upload.format in {"csv", "tsv"}:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "bars")):
            if separator in available[0]:
                hint = f"Its fields seem to be separated by {name}; save it with commas as .csv or tabs as .tsv."
                break
    has = quote_all(list(available), 12) or "none"
    has = f"it has {has}" if upload.format == "parquet" else f"its first line names {has}"
    return PreparationFailed("dataset_missing_column", f"{upload.name} has {what}; {has}. {hint}")
