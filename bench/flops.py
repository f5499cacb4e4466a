"""Useful floating-point operations of training an encoder: what the logits need, padding not counted."""

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
    attention costs 12 x hidden x length for each token and layer. Pooler and classifier see one token a row, and so
    does the last layer but for its keys and values. Embeddings, LayerNorms, softmax and the optimiser are not counted.
    """
    inner, keys_and_values = shape.layers - 1, 2 * shape.hidden**2
    by_token = inner * shape.layer_parameters + keys_and_values
    by_row = shape.layer_parameters - keys_and_values + shape.hidden**2 + shape.hidden * shape.labels
    attention = 12 * shape.hidden * (inner * counts.squared + counts.tokens)
    return 6 * (by_token * counts.tokens + by_row * counts.rows) + attention
