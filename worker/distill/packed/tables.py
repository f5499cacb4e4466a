"""Small tables that are looked up by position or distance, with a gradient that is one product."""

from typing import Any, cast

import torch

from worker.distill.packed.weights import FlatWeights

Tensor = torch.Tensor
# transformers' MPNet asks for so many whatever its config says.
_BUCKETS = 32


def look_up(table: Tensor, indices: Tensor, count: int) -> Tensor:
    """(tokens, width) rows of a small table, of which only the first `count` occur.

    As a product with a one-hot matrix its gradient is a product too; a look-up's would go token by token.
    """
    table = table[:count]
    one_hot = torch.zeros(len(indices), len(table), dtype=table.dtype, device=table.device)
    one_hot.scatter_(1, indices[:, None], 1.0)
    return one_hot @ table


class RelativeBias:
    """What attention adds to a score by how far key and query are apart: a weight for each head and bucket of distance.

    Raffel et al., "Exploring the limits of transfer learning" (2020), section 2.1, as MPNet has it: one table for all
    layers.
    """

    def __init__(self, weights: FlatWeights, model: torch.nn.Module, path: str) -> None:
        self._table = weights.read(f"{path}.weight", is_exact=True)
        self._encoder: Any = model.get_submodule(path.rpartition(".")[0])
        self._buckets: dict[int, Tensor] = {}

    def of(self, length: int, queries: int | None = None) -> Tensor:
        """(heads, queries, length) fp32, of the first so many tokens' queries, or of all."""
        queries = length if queries is None else queries
        if length not in self._buckets:
            places = torch.arange(length, device=self._table.device)
            buckets = self._encoder.relative_position_bucket(places[None] - places[:, None], num_buckets=_BUCKETS)
            self._buckets[length] = cast(Tensor, buckets).flatten()
        by_pair = look_up(self._table, self._buckets[length][: queries * length], len(self._table))
        return by_pair.view(queries, length, -1).permute(2, 0, 1).contiguous()
