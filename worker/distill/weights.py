"""What training changes of a model, as named tensors: its trainable parameters, and rows of its word table."""

import torch

from worker.distill.families import word_table
from worker.distill.words import WordVectors

# Of the table only the rows that were trained are kept, with their numbers beside them.
_WORD_ROWS, _WORD_VECTORS = "word_rows", "word_vectors"


def trained_weights(model: torch.nn.Module, words: WordVectors | None) -> dict[str, torch.Tensor]:
    """Copies on the processor of the trainable parameters, and of the rows of the word table that `words` trains."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if words is not None:
        weights[_WORD_ROWS] = words.rows
        weights[_WORD_VECTORS] = word_table(model).detach().index_select(0, words.rows)
    return {name: value.to("cpu", copy=True).contiguous() for name, value in weights.items()}


@torch.no_grad()
def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put trained `weights` back into `model`; what was not trained stays as it is."""
    weights = dict(weights)
    word_rows, word_vectors = weights.pop(_WORD_ROWS, None), weights.pop(_WORD_VECTORS, None)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    if unexpected or trainable & set(missing):
        raise ValueError(f"weights do not fit the model: unexpected {unexpected}, missing {missing}.")
    if word_rows is not None and word_vectors is not None:
        table = word_table(model)
        table.index_copy_(0, word_rows.to(table.device), word_vectors.to(table.device))
