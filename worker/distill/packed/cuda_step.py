"""The optimiser's step over the flat weights on a GPU: everything is decided there, so it is one graph."""

import torch

from worker.distill.optimizer import MAX_GRADIENT_NORM
from worker.distill.packed.graphs import Recorder
from worker.distill.packed.weights import FlatWeights
from worker.distill.words import WordVectors

Tensor = torch.Tensor


class CudaStep:
    """AdamW with gradients of a joint norm of at most one, as optimizer.Optimizer does it.

    The scale goes into AdamW's own pass over the gradients. The first step makes AdamW's state, and each later one is
    a replay of the same calls.
    """

    def __init__(self, adamw: torch.optim.AdamW, weights: FlatWeights, recorder: Recorder) -> None:
        self._adamw, self._weights, self._recorder = adamw, weights, recorder
        device = weights.masters[0].device
        self._rate, self._norm_of_words, self._scale = (torch.zeros((), device=device) for _ in range(3))
        for group in adamw.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_run = False

    def record_with(self, recorder: Recorder) -> None:
        """Forget what was recorded; the next step is recorded there."""
        self._recorder, self._graph = recorder, None

    def __call__(self, learning_rate: float, words: WordVectors | None) -> None:
        self._rate.fill_(learning_rate)
        if words is not None:
            assert words.looked_up.grad is not None, "backward() comes before it"
            self._norm_of_words.copy_(torch.linalg.vector_norm(words.looked_up.grad))
        if self._graph is None and self._has_run:
            self._graph = self._recorder.record(self._step)
        if self._graph is None:
            self._step()
            self._has_run = True
        else:
            self._graph.replay()
        if words is not None and words.looked_up.grad is not None:
            words.looked_up.grad.div_(self._scale)
            words.step(learning_rate)

    def _step(self) -> None:
        gradients = [master.grad for master in self._weights.masters if master.grad is not None]
        norms = torch.stack([torch.nn.utils.get_total_norm(gradients), self._norm_of_words])
        self._scale.copy_(torch.linalg.vector_norm(norms).div_(MAX_GRADIENT_NORM).clamp_(min=1.0))
        self._adamw.grad_scale = self._scale  # type: ignore[attr-defined] # what AMP's scaler gives it
        self._adamw.step()
        self._weights.refresh()
