"""Identifiers: a prefix that names the kind, then 26 lower-case characters that sort by the time of making.

The characters are a ULID's: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32.
"""

import re
import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PREFIXES = {"job": "job", "dataset": "dts", "teacher": "tch"}

# The examples that the embedded mode seeds have readable ids.
DEMO_DATASET_ID = "dts_demo"
DEMO_TEACHER_ID = "tch_demo"

_ID = re.compile(r"(job|dts|tch)_[0-9a-z]{1,40}")


def new_id(kind: str) -> str:
    """A fresh id for a ``job``, ``dataset`` or ``teacher``."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    characters = []
    for _ in range(26):
        characters.append(ALPHABET[number & 31])
        number >>= 5
    return f"{PREFIXES[kind]}_{''.join(reversed(characters))}"


def new_run_token() -> str:
    """A fresh run token: 24 characters that can stand in an object key."""
    return secrets.token_hex(12)


def is_id(text: str) -> bool:
    """Whether the text has the form of an id."""
    return _ID.fullmatch(text) is not None
