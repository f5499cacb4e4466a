"""The only builder of object keys. Every path that a worker writes carries its run token, but for the cache, whose
entries are the same whoever writes them.

Functions that name a folder return it without a slash at the end.
"""

import re
from collections.abc import Mapping
from typing import Any

from app.domain.leases import Kind

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# Of what workers put there only to see whether the store takes it.
PROBES = "health"
CACHE_ROOT = "cache"
# Of a cache entry, written last: what it does not list is not there.
CACHE_INDEX = "index.json"


def root(kind: Kind, row_id: str) -> str:
    """Where all objects of a dataset, a teacher or a job lie."""
    return _join(f"{kind}s", row_id)


def dataset_root(dataset_id: str) -> str:
    return root("dataset", dataset_id)


def dataset_uploads(dataset_id: str) -> str:
    return _join("datasets", dataset_id, "uploads")


def dataset_upload(dataset_id: str, split: str, suffix: str) -> str:
    """`suffix` as in the file's name, such as ``.csv.gz``."""
    return _join("datasets", dataset_id, "uploads", f"{split}{suffix}")


def dataset_prepared(dataset_id: str, run_token: str) -> str:
    return _join("datasets", dataset_id, run_token, "prepared")


def teacher_root(teacher_id: str) -> str:
    return root("teacher", teacher_id)


def teacher_uploads(teacher_id: str) -> str:
    return _join("teachers", teacher_id, "uploads")


def teacher_upload(teacher_id: str, file_name: str) -> str:
    return _join("teachers", teacher_id, "uploads", file_name)


def teacher_files(teacher_id: str, run_token: str) -> str:
    return _join("teachers", teacher_id, run_token)


def job_root(job_id: str) -> str:
    return root("job", job_id)


def job_checkpoint(job_id: str, run_token: str, step: int) -> str:
    return _join("jobs", job_id, run_token, "checkpoints", f"{step:08d}")


def job_artifact(job_id: str, run_token: str, name: str) -> str:
    """`name` is the artifact's path inside the student's folder; it may hold slashes."""
    return _join("jobs", job_id, run_token, "artifact", *name.split("/"))


def probe(run_token: str) -> str:
    return _join(PROBES, run_token)


def name_in_cache(file: Mapping[str, Any]) -> str:
    """The name in its entry's folder of a file that the entry's index lists; older releases had its path there."""
    return str(file.get("object", file["path"]))


def cache_folder(kind: str, content_key: str) -> str:
    return _join(CACHE_ROOT, kind, content_key)


def cache_file(kind: str, content_key: str, file: str) -> str:
    return _join(CACHE_ROOT, kind, content_key, *file.split("/"))


def inside(prefix: str, path: str) -> str:
    """The key of a file at the relative `path` under a folder that a row names."""
    return f"{prefix}/{_join(*path.split('/'))}"


def is_segment(name: str) -> bool:
    """Whether an object may have this name in its folder."""
    return _SEGMENT.fullmatch(name) is not None


def is_under(key: str, prefix: str) -> bool:
    """Whether the key is the prefix itself or lies in that folder."""
    return key == prefix or key.startswith(f"{prefix}/")


def _join(*segments: str) -> str:
    for segment in segments:
        if not is_segment(segment):
            raise ValueError(
                f"{segment!r} cannot be part of an object key: letters, digits, '.', '_' and '-' only, "
                "not starting with a dot"
            )
    return "/".join(segments)
