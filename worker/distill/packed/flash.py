"""Attention of packed tokens as a GPU's own kernel does it: no grid, no scores in memory."""

import math
from typing import Any

import torch

from worker.distill.packed.layout import Packing

Tensor = torch.Tensor
_LEAST_CAPABILITY = (8, 0)  # Ampere
_WIDEST_HEAD = 192  # of the smaller GPUs from there on


def has_flash_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether torch has the kernel for this GPU, arithmetic and width of a head."""
    return (
        device.type == "cuda"
        and dtype is torch.bfloat16
        and head_width % 8 == 0
        and head_width <= _WIDEST_HEAD
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY
    )


class FlashAttention(torch.autograd.Function):
    """As functions.Attention, without a bias: Dao, "FlashAttention-2" (2023), on rows of any length side by side.

    torch offers it to nested tensors only; the operator below them takes the packed tokens as they are. `ends`
    (rows + 2,) int32 begins with 0 and has the end of each row and of what fills up, which is a row to the kernel: else
    it would leave there what was in the memory before.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, ends: Tensor, longest: int, heads: int, chance: float) -> Tensor:
        """(tokens, width) of `projected` (tokens, 3 * width); no row has more than `longest` tokens."""
        tokens = len(projected)
        queries, keys, values = projected.view(tokens, 3, heads, -1).unbind(1)
        scale = 1 / math.sqrt(queries.shape[-1])
        context, log_sums, random_state, unused, _ = torch.ops.aten._flash_attention_forward(
            queries, keys, values, ends, ends, longest, longest, chance, False, False, scale=scale
        )
        ctx.save_for_backward(projected, context, log_sums, random_state, unused, ends)
        ctx.longest, ctx.heads, ctx.chance, ctx.scale = longest, heads, chance, scale
        return context.view(tokens, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        projected, context, log_sums, random_state, unused, ends = ctx.saved_tensors
        tokens = len(projected)
        queries, keys, values = projected.view(tokens, 3, ctx.heads, -1).unbind(1)
        parts = torch.ops.aten._flash_attention_backward(
            gradient.contiguous().view(context.shape), queries, keys, values, context, log_sums, ends, ends,
            ctx.longest, ctx.longest, ctx.chance, False, random_state, unused, scale=ctx.scale,
        )  # fmt: skip
        return torch.stack(parts, 1).view(tokens, -1), None, None, None, None


def ends_of_rows(packing: Packing) -> Tensor:
    """(rows + 2,) int32, as FlashAttention wants it."""
    ends = torch.zeros(packing.rows + 2, dtype=torch.int32, device=packing.lengths.device)
    ends[1:-1] = packing.lengths.cumsum(0)
    ends[-1:].fill_(len(packing.row_of))
    return ends
