"""Where each token of a batch lies: packed, one after the other without padding, and in the grid of attention.

Everything but attention works on packed tokens (tokens, width), so no arithmetic is spent on padding. Attention
works per row and head, on a grid padded to the batch's longest row where no kernel does it on packed tokens; rows of
like length share a batch, so that grid holds next to no padding either. Going from one to the other is a gather in
both directions, by indices that all layers share but the last, whose attention is for one token of each row.

New shapes are expensive: a processor's matrix library compiles its kernels anew for each, which costs as much as the
product, and a GPU's graphs are captured for each. So the packed tokens are filled up to a round number, and the
grid's length to another: few shapes, and little work on what fills them up.
"""

import functools
from dataclasses import dataclass

import torch

from worker.distill.batches import Batch

_TOKEN_MULTIPLE = {"cpu": 32, "cuda": 64}
_LENGTH_MULTIPLE = {"cpu": 8, "cuda": 32}
# On a GPU long batches are filled up by more, to at most this part of them.
_MOST_FILLED_UP = {"cpu": 0.0, "cuda": 1 / 16}


@dataclass(frozen=True)
class Packing:
    """Which token of the batch stands at which packed place. Tokens that fill up are copies of the first one, of a
    row of their own that nothing reads."""

    rows: int
    length: int  # of the longest row, rounded up
    real_tokens: int
    row_of: torch.Tensor  # (tokens,) int64
    position_of: torch.Tensor  # (tokens,) int64
    lengths: torch.Tensor  # (rows,) int64

    @classmethod
    def of(cls, batch: Batch) -> "tuple[Packing, torch.Tensor]":
        """Also (tokens,) int64: each packed token's place in the batch's flattened (rows, length) arrays."""
        rows, width = batch.mask.shape
        kind = batch.mask.device.type
        real_tokens = len(batch.places)
        fill = _round_up(real_tokens, _token_multiple(real_tokens, kind)) - real_tokens
        places = torch.cat([batch.places, batch.places[:1].expand(fill)])
        packing = cls(
            rows=rows,
            length=grid_length(width, kind),
            real_tokens=real_tokens,
            row_of=places // width,
            position_of=places % width,
            lengths=batch.mask.sum(1),
        )
        return packing, places

    @property
    def is_full(self) -> bool:
        """Whether every place of the grid holds a token."""
        return self.real_tokens == self.rows * self.length

    @property
    def most_filled_up(self) -> int:
        """How many tokens a batch of so many packed ones may have to fill it up."""
        return _token_multiple(len(self.row_of), self.row_of.device.type)

    def starts(self) -> torch.Tensor:
        """(rows,) int64: the packed place of each row's first token."""
        return self.lengths.cumsum(0) - self.lengths

    @functools.cached_property  # the last layer's attention wants it, and so does the others' grid
    def token_grid(self) -> "TokenGrid":
        return TokenGrid.of(self)

    def is_real(self) -> torch.Tensor:
        """(tokens,) bool: which do not fill up. Found on the device: graphs ask it again for other rows."""
        return torch.arange(len(self.row_of), device=self.lengths.device) < self.lengths.sum()


@dataclass(frozen=True)
class TokenGrid:
    """Whole tokens by row, (rows, length, any width), and the way to them and back."""

    rows: int
    length: int
    padding: torch.Tensor | None  # (rows, length) fp32, -inf where there is no token; None where all rows are full
    is_there: torch.Tensor  # (rows, length) bool: where there is one
    to_grid: torch.Tensor  # (rows, length) int64 packed token; where there is none it is its row's first one
    from_grid: torch.Tensor  # (tokens,) int64 back; a token that fills up looks one place behind the grid

    @classmethod
    def of(cls, packing: Packing) -> "TokenGrid":
        rows, length = packing.rows, packing.length
        places = torch.arange(length, device=packing.lengths.device)
        is_there = places < packing.lengths[:, None]
        starts = packing.starts()[:, None]
        return cls(
            rows=rows,
            length=length,
            padding=None if packing.is_full else torch.where(is_there, 0.0, -torch.inf),
            is_there=is_there,
            to_grid=torch.where(is_there, starts + places, starts),
            from_grid=torch.where(packing.is_real(), packing.row_of * length + packing.position_of, rows * length),
        )


@dataclass(frozen=True)
class Grid:
    """Attention's arrays, (rows * heads, length, head's width), and the way to them and back."""

    rows: int
    length: int
    heads: int
    padding: torch.Tensor | None  # (rows, length) fp32, -inf where there is no token; None where all rows are full
    presence: torch.Tensor  # (rows, length) fp32, 1 where there is a token, else 0
    to_grid: torch.Tensor  # (3 * rows * heads * length,) of packed (token, projection, head) to the grid's order
    from_grid: torch.Tensor  # (tokens * 3 * heads,) back; a token that fills up looks one place behind the grid
    context_to_grid: torch.Tensor  # (rows * heads * length,) of packed (token, head)
    context_from_grid: torch.Tensor  # (tokens * heads,) back

    @classmethod
    def of(cls, packing: Packing, heads: int) -> "Grid":
        tokens = packing.token_grid
        rows, length = tokens.rows, tokens.length
        device = packing.lengths.device
        # Attention masks what comes of the places without a token of their own.
        token = tokens.to_grid
        head = torch.arange(heads, device=device)
        part = torch.arange(3, device=device)
        context_to_grid = token[:, None, :] * heads + head[None, :, None]  # (rows, heads, length)
        projected = token[:, None, :] * (3 * heads) + head[None, :, None]
        to_grid = projected[None] + (part * heads)[:, None, None, None]
        row_of, position_of = packing.row_of, packing.position_of
        context_from_grid = (row_of[:, None] * heads + head) * length + position_of[:, None]  # (tokens, heads)
        size = rows * heads * length
        from_grid = context_from_grid[:, None, :] + (part * size)[None, :, None]
        from_grid = torch.where(packing.is_real()[:, None, None], from_grid, 3 * size)
        return cls(
            rows=rows,
            length=length,
            heads=heads,
            padding=tokens.padding,
            presence=tokens.is_there.float(),
            to_grid=to_grid.flatten(),
            from_grid=from_grid.flatten(),
            context_to_grid=context_to_grid.flatten(),
            context_from_grid=context_from_grid.flatten(),
        )


def grid_length(longest: int, kind: str) -> int:
    """How long a grid is whose longest row has so many tokens, on a device of this kind."""
    return _round_up(longest, _LENGTH_MULTIPLE[kind])


def _token_multiple(tokens: int, kind: str) -> int:
    """A power of two times the least multiple, the same for `tokens` and for what they are rounded up to."""
    multiple = _TOKEN_MULTIPLE[kind]
    while multiple * 2 < tokens * _MOST_FILLED_UP[kind]:
        multiple *= 2
    return multiple


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
