"""What must hold of a dataset's splits, each alone and together."""

from collections.abc import Mapping, Sequence

import numpy as np

from app.domain.quoting import quote, quote_all
from worker.preparation.columns import Columns
from worker.preparation.errors import PreparationFailed
from worker.preparation.staging import EXAMPLES, StagedSplit

MAX_EMPTY_SHARE = 0.1


def check_rows(split: StagedSplit, columns: Columns) -> list[str]:
    """Refuse a file without usable rows; returns warnings about the rows that were left out."""
    name = split.upload.name
    if split.rows_seen == 0:
        enough = (
            "one that has some, or none" if columns.label is None else "a file with at least two rows for each class"
        )
        raise PreparationFailed("dataset_empty", f"{name} has no rows. Upload {enough}.")
    if split.empty_rows == 0:
        return []
    if columns.text_pair is not None and split.empty_pairs == split.rows_seen:
        # Mostly nobody asked for pairs: the column was found by its name.
        raise PreparationFailed(
            "dataset_empty_rows",
            f"{name} has the column {quote(columns.text_pair)} for the second text of a pair, and it is empty in every "
            "row. Remove or rename the column if a row is one text; else fill it in, or name another in "
            "text_pair_column.",
        )
    where = _where(split, split.first_empty, split.empty_rows)
    empty = "an empty text" if columns.label is None else "an empty text or label"
    what = f"{split.empty_rows} of {split.rows_seen} rows of {name} have {empty} ({where})"
    if split.empty_rows >= MAX_EMPTY_SHARE * split.rows_seen:
        elsewhere = "" if columns.label is None else " Training texts without a label go into a file `unlabelled`."
        raise PreparationFailed(
            "dataset_empty_rows",
            f"{what}; {MAX_EMPTY_SHARE:.0%} or more is refused. Fill them in or remove them, "
            f"and check that the right columns are named.{elsewhere}",
        )
    return [f"{what}; they were left out."]


def check_classes(train: StagedSplit, names: Mapping[int, str], *, split_needed: bool) -> None:
    """Training rows need two classes, and two rows of each where a validation split is taken from them."""
    codes, counts = np.unique(train.codes(), return_counts=True)
    if len(codes) < 2:
        raise PreparationFailed(
            "dataset_one_class",
            f"Every row of {train.upload.name} has the label {quote(names[int(codes[0])])}. "
            "A classifier needs at least two classes; check that the right label column is named.",
        )
    rare = sorted(names[int(code)] for code, count in zip(codes, counts, strict=True) if count < 2)
    if split_needed and rare:
        raise PreparationFailed(
            "dataset_too_few_rows",
            f"{len(rare)} of {len(codes)} classes have a single row in {train.upload.name}: "
            f"{quote_all(rare)}. Add rows, or upload a validation file so that none has to be taken "
            "from the training rows.",
        )


def check_labels_seen(train: StagedSplit, other: StagedSplit, names: Mapping[int, str]) -> None:
    """Refuse labels that training never saw: no model could ever predict them."""
    unseen = sorted(set(other.label_places) - set(train.label_places))
    if unseen:
        first = min(other.label_places[code] for code in unseen)
        raise PreparationFailed(
            "dataset_unseen_labels",
            f"{other.upload.name} has labels that {train.upload.name} has not: "
            f"{quote_all([names[code] for code in unseen])} (first on {other.unit} {first}). "
            "Add training rows for them, or remove the rows.",
        )


def repeated_warnings(train: StagedSplit, validation: np.ndarray) -> list[str]:
    """Rows of the validation split taken from train (mask over its rows) whose text stays in train as well."""
    texts = train.texts()
    is_shared = np.isin(texts[validation], texts[~validation])
    if not is_shared.any():
        return []
    shared = train.places()[validation][is_shared]
    return [
        f"{len(shared)} of the {int(validation.sum())} validation rows taken from {train.upload.name} also stand in "
        f"what is left of it ({_first_of(train, shared)}), because texts repeat there; numbers measured on them "
        "flatter the model. Remove the repeats, or upload a validation file."
    ]


def learnt_warnings(unlabelled: StagedSplit, train: StagedSplit, validation: np.ndarray) -> list[str]:
    """Rows of the validation split taken from train (mask over its rows) whose text is learnt without its label."""
    is_shared = np.isin(train.texts()[validation], unlabelled.texts())
    if not is_shared.any():
        return []
    shared = train.places()[validation][is_shared]
    return [
        f"{len(shared)} of the {int(validation.sum())} validation rows taken from {train.upload.name} also stand in "
        f"{unlabelled.upload.name} ({_first_of(train, shared)} of {train.upload.name}); numbers measured on them "
        "flatter the model. Leave out of the one file what stands in the other, or upload a validation file."
    ]


def duplicate_warnings(learnt: StagedSplit, other: StagedSplit) -> list[str]:
    """Rows of a held-out file that are learnt from as well, labelled or not, make its numbers look better than they
    are."""
    shared = other.places()[np.isin(other.texts(), learnt.texts())]
    if len(shared) == 0:
        return []
    return [
        f"{len(shared)} of {other.rows} rows of {other.upload.name} also stand in {learnt.upload.name} "
        f"({_first_of(other, shared)}); numbers measured on them flatter the model."
    ]


def _first_of(split: StagedSplit, places: np.ndarray) -> str:
    return _where(split, places[:EXAMPLES].tolist(), len(places))


def _where(split: StagedSplit, first: Sequence[int], count: int) -> str:
    """Such as "lines 3, 9, …": the first of `count` lines or rows of a file."""
    named = f"{split.unit}{'s' if len(first) > 1 else ''} {', '.join(map(str, first))}"
    return f"{named}, …" if count > len(first) else named
