"""Where each token of a batch lies: packed, one after the other without padding, and in the grid of attention.

Everything but attention works on packed tokens (tokens, width), so no arithmetic is spent on padding. Attention
works per row and head on a grid padded to the batch's longest row; rows of like length share a batch, so that
grid holds next to no padding either. Going from one to the other is a gather in both directions, by indices that
all layers share.

A matrix library compiles its kernels anew for every shape that it meets, which costs as much as the product. So the
packed tokens are filled up to a multiple of 32, and the grid's length to one of 8: few shapes, and little work on
what fills them up.
"""

from dataclasses import dataclass

import torch

from worker.distill.batches import Batch

_TOKEN_MULTIPLE = 32
_LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Layout:
    rows: int
    length: int  # of the grid
    heads: int
    real_tokens: int
    places: torch.Tensor  # (tokens,) int64: each packed token's place in the batch's padded (rows, width) arrays
    row_of: torch.Tensor  # (tokens,) int64
    position_of: torch.Tensor  # (tokens,) int64
    starts: torch.Tensor  # (rows,) int64: the packed place of each row's first token
    padding: torch.Tensor | None  # (rows, length) fp32, -inf where there is no token; None where all rows are full
    presence: torch.Tensor  # (rows, length) fp32, 1 where there is a token, else 0
    to_grid: torch.Tensor  # (3 * rows * heads * length,) of packed (token, projection, head) to the grid's order
    from_grid: torch.Tensor  # (tokens * 3 * heads,) back
    context_to_grid: torch.Tensor  # (rows * heads * length,) of packed (token, head)
    context_from_grid: torch.Tensor  # (tokens * heads,) back

    @classmethod
    def of(cls, batch: Batch, heads: int) -> "Layout":
        """Tokens that fill up are copies of the first one: nothing reads what becomes of them."""
        rows, width = batch.mask.shape
        length = -(-width // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        mask = torch.nn.functional.pad(batch.mask, (0, length - width))
        places = batch.mask.flatten().nonzero().flatten()
        real_tokens = len(places)
        fill = -real_tokens % _TOKEN_MULTIPLE
        places = torch.cat([places, places[:1].expand(fill)])
        row_of, position_of = places // width, places % width
        lengths = batch.mask.sum(1)
        starts = lengths.cumsum(0) - lengths
        # A place of the grid without a token looks at its row's first one; attention masks what comes of it.
        token = torch.where(mask, starts[:, None] + torch.arange(length), starts[:, None])
        head = torch.arange(heads)
        context_to_grid = token[:, None, :] * heads + head[None, :, None]  # (rows, heads, length)
        projected = token[:, None, :] * (3 * heads) + head[None, :, None]
        to_grid = projected[None] + (torch.arange(3) * heads)[:, None, None, None]
        context_from_grid = (row_of[:, None] * heads + head) * length + position_of[:, None]  # (tokens, heads)
        from_grid = context_from_grid[:, None, :] + (torch.arange(3) * (rows * heads * length))[None, :, None]
        return cls(
            rows=rows,
            length=length,
            heads=heads,
            real_tokens=real_tokens,
            places=places,
            row_of=row_of,
            position_of=position_of,
            starts=starts,
            padding=None if bool(mask.all()) else torch.where(mask, 0.0, -torch.inf),
            presence=mask.float(),
            to_grid=to_grid.flatten(),
            from_grid=from_grid.flatten(),
            context_to_grid=context_to_grid.flatten(),
            context_from_grid=context_from_grid.flatten(),
        )
