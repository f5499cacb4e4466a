"""What an uploaded file has to be before anyone looks into it: its name, which tells the format, and its size."""

from app.errors import InvalidRequest
from app.services.form_parts import check_plain_name, shown_name

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz", ".parquet")


def check_file_name(file_name: str, *, param: str) -> str:
    """Refuse a name that is not plain, or of no known format; return its suffix, in lower case."""
    check_plain_name(file_name, param=param)
    lowered = file_name.lower()
    # The longest that fits: .csv.gz before anything shorter.
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if lowered.endswith(suffix) and len(lowered) > len(suffix):
            return suffix
    raise InvalidRequest(
        f"{param} is a file named {shown_name(file_name)}, whose format is not known. Name it by its format: "
        f"{', '.join(SUFFIXES)}.",
        code="unsupported_file_type",
        param=param,
    )


def stem(file_name: str, suffix: str) -> str:
    """The name without its suffix: what a dataset is called when nobody named it."""
    return file_name[: -len(suffix)]
