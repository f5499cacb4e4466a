"""What a .safetensors file says of itself: names, types and shapes of its tensors. Reads no weights."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.quoting import quote
from app.domain.teacher_files import WEIGHTS_INDEX, WHOLE_WEIGHTS
from worker.preparation.errors import PreparationFailed

# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    dtype: str  # as the format names it: F32, BF16, I64, ...
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of the file by name; raises PreparationFailed where it is damaged or something else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if _LFS_POINTER.startswith(start) and len(start) == 8:
            raise _damaged(path, "is a Git LFS pointer, not the weights: run `git lfs pull` in the folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(_MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, "is not a safetensors file, or it is cut off")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            infos = {
                name: TensorInfo(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
                for name, entry in tensors.items()
            }
            end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise _damaged(path, f"has a header that cannot be read ({error})") from None
    if 8 + length + end != size:
        raise _damaged(path, f"has {size} bytes where its header promises {8 + length + end}")
    return infos


def read_weights(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a model folder: model.safetensors, or the parts that its index names."""
    whole = folder / WHOLE_WEIGHTS
    if whole.exists():
        return read_header(whole)
    index_path = folder / WEIGHTS_INDEX
    part_of_tensor = read_index(index_path)
    tensors: dict[str, TensorInfo] = {}
    for part in sorted(set(part_of_tensor.values())):
        if Path(part).name != part or not (folder / part).is_file():
            raise missing_part(part)
        tensors.update(read_header(folder / part))
    if missing := sorted(set(part_of_tensor) - set(tensors)):
        raise _damaged(index_path, f"promises {quote(missing[0])}, which no part holds")
    return tensors


def read_index(path: Path) -> dict[str, str]:
    """Which file each tensor is in, from the index of weights in parts."""
    try:
        weight_map: dict[str, Any] = json.loads(path.read_bytes())["weight_map"]
        return {name: str(part) for name, part in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({error!r})") from None


def missing_part(part: str) -> PreparationFailed:
    return PreparationFailed(
        "teacher_files_missing",
        f"{WEIGHTS_INDEX} names {quote(part)}, which is not among the teacher's files. "
        "Add the missing part of the weights.",
    )


def _damaged(path: Path, what: str) -> PreparationFailed:
    return PreparationFailed("teacher_weights_mismatch", f"{path.name} {what}. Save or download the model again.")
