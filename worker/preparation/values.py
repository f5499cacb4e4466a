"""One row's values as the dataset keeps them: a text, perhaps a second text, and a label's name."""

import math
from typing import Any

from app.domain.quoting import quote
from worker.preparation.errors import PreparationFailed

MAX_LABEL_CHARACTERS = 200


def text_value(value: Any, *, place: str, column: str) -> str:
    """The text as it stands; an absent one is empty. `place` is where it stands, for the message."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PreparationFailed(
            "dataset_bad_text",
            f"{place}: {quote(column)} is {quote(value)} of type {type(value).__name__}, not a text. "
            "Write it as a string.",
        )
    _check_characters(value, place, column)
    return value


def class_name(value: object) -> str:
    """How a class of that value is called: a whole number by its digits, a truth value in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    # A column of whole numbers with gaps reaches Parquet as floats; 1.0 there is the class "1".
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def label_value(value: Any, *, place: str, column: str) -> str:
    """A label's name without surrounding space; numbers are named by their digits, an absent one is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return class_name(value)
    if not isinstance(value, str):
        raise _bad_label(value, place, column, "is not a class name; write it as a string or a whole number")
    _check_characters(value, place, column)
    name = value.strip()
    if len(name) > MAX_LABEL_CHARACTERS:
        raise _bad_label(
            value,
            place,
            column,
            f"is longer than {MAX_LABEL_CHARACTERS} characters; is this the label column",
        )
    return name


def _check_characters(value: str, place: str, column: str) -> None:
    """Refuse what JSON escapes can smuggle into a string but neither UTF-8 nor a database can hold."""
    if "\0" in value:
        raise PreparationFailed(
            "dataset_binary",
            f"{place}: {quote(column)} contains a NUL character. Remove it; texts cannot hold one.",
        )
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PreparationFailed(
            "dataset_not_utf8",
            f"{place}: {quote(column)} contains half of a surrogate pair (U+{ord(value[error.start]):04X}), "
            "which is not a character. Remove it or write the whole pair.",
        ) from None


def _bad_label(value: Any, place: str, column: str, what: str) -> PreparationFailed:
    return PreparationFailed("dataset_bad_label", f"{place}: {quote(column)} is {quote(value)}, which {what}.")
