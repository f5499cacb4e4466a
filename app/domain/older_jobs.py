"""What a job's student and methods were before a field of theirs existed: a job goes on as it was posted, and a body
without the field keeps its hash."""

from typing import Any, Final

_LIFT: Final = {"lift": "shift"}
_TARGETS: Final = {"scored_rows": 10_000_000, "targeting": "region"}

STUDENT: Final[dict[str, Any]] = {"word_vectors": "frozen"}
METHODS: Final[dict[str, dict[str, Any]]] = {
    "sage": {**_TARGETS, **_LIFT, "candidates": 1.0},
    "random_anchors": _LIFT,
    "oversample": _TARGETS,
}
