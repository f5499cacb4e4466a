"""The steps of a transformer layer where a gradient written by hand saves passes over memory."""

import math
from typing import Any

import torch
import torch.nn.functional as functional

from worker.distill.packed.dropout import keep, keep_
from worker.distill.packed.layout import Grid, TokenGrid

Tensor = torch.Tensor


class Attention(torch.autograd.Function):
    """Softmax attention of packed tokens, each row by itself.

    softmax(Q K^T / sqrt(d)) V per row and head; the softmax in fp32. Vaswani et al., "Attention is all you need"
    (2017), equation 1. `projected` (tokens, 3 * width) holds queries, keys and values side by side; `bias` (heads,
    length, length) is added to every row's scores.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, where: Grid, bias: Tensor | None, mask: Tensor | None, chance: float
    ) -> Tensor:
        """(tokens, width). `mask` (rows * heads, length, length) drops attention weights with `chance`."""
        tokens = len(projected)
        size = projected.shape[1] // (3 * where.heads)
        grid = projected.view(-1, size).index_select(0, where.to_grid)
        queries, keys, values = grid.view(3, where.rows * where.heads, where.length, size)
        scores = torch.bmm(queries, keys.transpose(1, 2)).float().mul_(1 / math.sqrt(size))
        by_row = scores.view(where.rows, where.heads, where.length, where.length)
        if bias is not None:
            by_row.add_(bias)
        if where.padding is not None:
            by_row.add_(where.padding[:, None, None, :])
        weights = torch.softmax(scores, -1)
        used = weights.to(projected.dtype)
        if mask is not None:
            used = keep_(used if used is not weights else used.clone(), mask)
        context = torch.bmm(used, values)
        ctx.save_for_backward(queries, keys, values, weights, used, mask)
        ctx.where, ctx.scale = where, 1 / (1 - chance)
        packed = context.view(-1, size).index_select(0, where.context_from_grid).view(tokens, -1)
        return packed.mul_(ctx.scale) if mask is not None else packed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None, None, None]:
        queries, keys, values, weights, used, mask = ctx.saved_tensors
        where: Grid = ctx.where
        tokens, size = len(gradient), queries.shape[2]
        if mask is not None:
            gradient = gradient * ctx.scale
        context = gradient.reshape(-1, size).index_select(0, where.context_to_grid).view(queries.shape)
        if where.padding is not None:
            by_row = context.view(where.rows, where.heads, where.length, size)
            by_row.mul_(where.presence[:, None, :, None].to(context.dtype))
        of_weights = torch.bmm(context, values.transpose(1, 2))
        if mask is not None:
            keep_(of_weights, mask)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights.float(), weights, -1, torch.float32)
        of_bias = None
        if ctx.needs_input_grad[2]:
            of_bias = of_scores.view(where.rows, where.heads, where.length, where.length).sum(0)
        of_scores = of_scores.mul_(1 / math.sqrt(size)).to(queries.dtype)
        # One place more than the grid has: what fills up is a copy, must not count twice, and finds its zeros there.
        flat = torch.empty((3 * queries[..., 0].numel() + 1, size), dtype=queries.dtype, device=queries.device)
        flat[-1:].zero_()
        grid = flat[:-1].view(3, *queries.shape)
        torch.bmm(of_scores, keys, out=grid[0])
        torch.bmm(of_scores.transpose(1, 2), queries, out=grid[1])
        torch.bmm(used.transpose(1, 2), context, out=grid[2])
        packed = flat.index_select(0, where.from_grid).view(tokens, -1)
        return packed, None, of_bias, None, None


class FirstAttention(torch.autograd.Function):
    """As Attention, for the query of each row's first token alone: of the last layer nothing else is read."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        projected: Tensor,
        where: TokenGrid,
        bias: Tensor | None,
        mask: Tensor | None,
        chance: float,
        heads: int,
    ) -> Tensor:
        """(rows, width) for `queries` (rows, width) and `projected` (tokens, 2 * width), keys and values side by side.

        `bias` (heads, length) is added to every row's scores; `mask` (rows, length, heads), as wide as fp32, drops
        attention weights with `chance`. All in fp32: it is next to nothing beside a whole layer's.
        """
        grid = projected.index_select(0, where.to_grid.flatten()).float()
        keys, values = grid.view(where.rows, where.length, 2, heads, -1).unbind(2)
        asked = queries.float().view(where.rows, 1, heads, -1)
        scores = (keys * asked).sum(-1).mul_(1 / math.sqrt(asked.shape[-1]))
        if bias is not None:
            scores.add_(bias.t())
        if where.padding is not None:
            scores.add_(where.padding[:, :, None])
        weights = torch.softmax(scores, 1)
        used = weights if mask is None else keep(weights, mask).mul_(1 / (1 - chance))
        context = (values * used[..., None]).sum(1)
        ctx.save_for_backward(grid, asked, weights, used, mask)
        ctx.where, ctx.heads, ctx.scale = where, heads, 1 / (1 - chance)
        return context.view(queries.shape).to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None, None, None, None]:
        grid, asked, weights, used, mask = ctx.saved_tensors
        where: TokenGrid = ctx.where
        width = gradient.shape[1]
        keys, values = grid.view(where.rows, where.length, 2, ctx.heads, -1).unbind(2)
        of_context = gradient.float().view(asked.shape)
        of_weights = (values * of_context).sum(-1)
        if mask is not None:
            of_weights = keep_(of_weights, mask).mul_(ctx.scale)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, 1, torch.float32)
        of_bias = of_scores.sum(0).t() if ctx.needs_input_grad[3] else None
        of_scores = of_scores.mul_(1 / math.sqrt(asked.shape[-1]))[..., None]
        # One place more than the grid has, where what fills up finds its zeros, as in Attention.
        flat = torch.empty((len(grid) + 1, 2 * width), device=grid.device)
        flat[-1:].zero_()
        of_keys, of_values = flat[:-1].view(where.rows, where.length, 2, ctx.heads, -1).unbind(2)
        torch.mul(of_scores, asked, out=of_keys)
        torch.mul(used[..., None], of_context, out=of_values)
        of_queries = (keys * of_scores).sum(1).view(gradient.shape).to(gradient.dtype)
        return of_queries, flat.index_select(0, where.from_grid).to(gradient.dtype), None, of_bias, None, None, None


def fused_attention(projected: Tensor, where: Grid, chance: float) -> Tensor:
    """As Attention, by torch's own kernel on the grid: what a GPU without a kernel for packed tokens has, so that no
    scores lie in memory. Dropout is by torch's generator."""
    size = projected.shape[1] // (3 * where.heads)
    grid = projected.view(-1, size).index_select(0, where.to_grid)
    queries, keys, values = grid.view(3, where.rows, where.heads, where.length, size)
    is_there = None if where.padding is None else (where.presence > 0)[:, None, None, :]
    context = functional.scaled_dot_product_attention(queries, keys, values, is_there, dropout_p=chance)
    return context.reshape(-1, size).index_select(0, where.context_from_grid).view(len(projected), -1)


class DropAddNorm(torch.autograd.Function):
    """LayerNorm(residual + dropout(values)) over the last dimension, statistics in fp32.

    Ba, Kiros and Hinton, "Layer normalization" (2016); post-norm as in BERT.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float,
        mask: Tensor | None, chance: float,
    ) -> Tensor:  # fmt: skip
        """(tokens, width); `mask` of that shape drops elements of `values` with `chance`."""
        scale = 1 / (1 - chance)
        total = residual + values if mask is None else torch.add(residual, keep(values, mask), alpha=scale)
        normed, mean, deviation = torch.native_layer_norm(total, [total.shape[-1]], weight, bias, epsilon)
        ctx.save_for_backward(total, mean, deviation, weight, bias, mask)
        ctx.scale = scale
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None, None]:
        total, mean, deviation, weight, bias, mask = ctx.saved_tensors
        of_total, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.contiguous(), total, [total.shape[-1]], mean, deviation, weight, bias, [True, True, True]
        )
        of_values = of_total if mask is None else keep_(of_total * ctx.scale, mask)
        return of_values, of_total, of_weight, of_bias, None, None, None
