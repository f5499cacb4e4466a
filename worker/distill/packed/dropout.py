"""Dropout by masks that are drawn apart from what they drop, each a function of the step's seed.

On a processor as a bit mask: a drawn 16-bit number per element decides, and what is dropped is and-ed away. torch draws
its masks one number at a time there; at these sizes that took a tenth of a step. The chance is met to 1/65536. On a GPU
torch draws them at once.
"""

from typing import Protocol

import numpy as np
import torch

_INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class Masks(Protocol):
    """The masks of one step, a pure function of its seed and of the order in which they are asked for."""

    def draw(self, shape: tuple[int, ...], chance: float, dtype: torch.dtype) -> torch.Tensor:
        """What `keep` takes beside values of that `shape` and `dtype`, to drop each with `chance`."""


class DeviceMasks:
    """Masks of zeros and ones from the GPU's own generator, seeded from outside: so a captured graph draws anew."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def draw(self, shape: tuple[int, ...], chance: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device).bernoulli_(1 - chance)


class BitMasks:
    """Masks of bits."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.SFC64(seed)

    def draw(self, shape: tuple[int, ...], chance: float, dtype: torch.dtype) -> torch.Tensor:
        """`shape` integers as wide as `dtype`: all ones to keep an element, all zeros to drop it (with `chance`)."""
        count = int(np.prod(shape))
        raw: np.ndarray = self._bits.random_raw(-(-count // 4))
        numbers = torch.from_numpy(raw.view(np.int16)[:count]).view(shape)
        first_kept = -32_768 + round(chance * 65_536)
        # 0 below the first that is kept, -1 (all ones) from there on; whole-tensor steps that the processor does by
        # the vector, where a comparison would make another type.
        mask = numbers.clamp_(first_kept - 1, first_kept).neg_().add_(first_kept - 1)
        return mask if dtype is torch.bfloat16 else mask.to(_INTEGER[dtype])


def keep(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`values` where the mask has ones, else zero; the caller scales by 1 / (1 - chance)."""
    if mask.is_floating_point():
        return values * mask
    return values.view(mask.dtype).bitwise_and(mask).view(values.dtype)


def keep_(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As `keep`, in place."""
    if mask.is_floating_point():
        return values.mul_(mask)
    values.view(mask.dtype).bitwise_and_(mask)
    return values
