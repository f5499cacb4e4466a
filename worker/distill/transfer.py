"""Arrays on their way to the device."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

_ALIGNMENT_BYTES = 16


def place(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """The `arrays` as tensors on `device`; to a GPU they go in one copy, which is not waited for."""
    if device.type == "cpu":
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return side_by_side(arrays, lambda staged: staged.pin_memory().to(device, non_blocking=True))


def side_by_side(
    arrays: Mapping[str, np.ndarray], move: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The `arrays` as parts of what `move` makes of one tensor of bytes that holds them all."""
    starts = np.cumsum([0, *(-(-array.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for array in arrays.values())])
    parts = {
        name: slice(int(start), int(start) + array.nbytes)
        for (name, array), start in zip(arrays.items(), starts, strict=False)
    }
    staged = np.empty(int(starts[-1]), np.uint8)
    for name, part in parts.items():
        staged[part] = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
    moved = move(torch.from_numpy(staged))
    dtypes = {name: torch.from_numpy(array[:0]).dtype for name, array in arrays.items()}
    return {name: moved[part].view(dtypes[name]).view(arrays[name].shape) for name, part in parts.items()}
