"""The optimiser's step: all gradients clipped together, then AdamW over the weights and over the word vectors."""

import torch

from worker.distill.words import WordVectors

_MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with gradients of a bounded norm.

    Biases and LayerNorms are not decayed, as usual for transformers, nor are word vectors.
    """

    def __init__(
        self,
        decayed: list[torch.nn.Parameter],
        plain: list[torch.nn.Parameter],
        words: WordVectors | None,
        weight_decay: float,
    ) -> None:
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        self.words = words
        self._parameters = [*decayed, *plain]

    def step(self, learning_rate: float) -> None:
        """One step along the gradients that backward() left."""
        clip(self._parameters if self.words is None else [*self._parameters, self.words.looked_up])
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        if self.words is not None:
            self.words.step(learning_rate)


def clip(parameters: list[torch.nn.Parameter]) -> None:
    """Scale the gradients down to a joint norm of at most one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # A processor knows the norm by now and may be spared a pass over all gradients; a GPU would be waited for.
    if norm.is_cuda or norm > _MAX_GRADIENT_NORM:
        torch.nn.utils.clip_grads_with_norm_(parameters, _MAX_GRADIENT_NORM, norm)
