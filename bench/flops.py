"""Useful floating-point operations of training an encoder: what the real tokens need, padding not counted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderShape:
    """A BERT-like encoder with a pooler and a classifier on its first token."""

    layers: int
    hidden: int
    intermediate: int
    labels: int

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer's matrix multiplications: query, key, value, output, and the two of the MLP."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate


@dataclass(frozen=True)
class TokenCounts:
    """Of a split as it is presented once: rows, their tokens, and the sum of the squares of their lengths."""

    rows: int
    tokens: int
    squared: int


def training_flops(shape: EncoderShape, counts: TokenCounts) -> int:
    """Forward and backward over the split once.

    A weight costs 6 operations for each token (multiply and add, in the forward pass and for both gradients);
    attention costs 12 x hidden x length for each token and layer; pooler and classifier see one token a row.
    Embeddings, LayerNorms, softmax and the optimiser are not counted.
    """
    weights = 6 * shape.layers * shape.layer_parameters * counts.tokens
    attention = 12 * shape.layers * shape.hidden * counts.squared
    head = 6 * (shape.hidden**2 + shape.hidden * shape.labels) * counts.rows
    return weights + attention + head
