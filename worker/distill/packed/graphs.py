"""The passes of a training step as CUDA graphs: what a shape of batch launches, recorded once and replayed.

A small encoder's step is hundreds of kernels of some microseconds, and asking for each takes longer than running it.
A replayed graph asks for all of them at once. It computes what the same calls compute one by one, to the bit: its
kernels are theirs, and its dropout draws from the generator as it is seeded at the replay.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

Tensor = torch.Tensor
# Everything that a pass reads: the same tensors at each replay, whose content the caller changes.
Inputs = tuple[Tensor, ...]
Compute = Callable[[Inputs], tuple[Tensor, ...]]


class Recorder:
    """What graphs of one network share: the memory of their intermediate results.

    They may share that, since a forward pass is always followed by its own backward pass or never asked for again.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        """`work` as a graph; it has run before, on the stream that is the current one, so the libraries that it calls
        have what they need. It is not run."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # while it records, torch cannot give back what it holds unused
        # Other threads may go on calling CUDA meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it would hide what went wrong
                graph.capture_end()
            raise
        graph.capture_end()
        return graph


class TrainingGraph:
    """Forward and backward pass of one shape. The first of its inputs may want a gradient; the others are integers."""

    def __init__(
        self,
        recorder: Recorder,
        compute: Compute,
        inputs: Inputs,
        leaves: Sequence[Tensor],
        put_gradients: Callable[[Sequence[Tensor | None]], None],
    ) -> None:
        """Record `compute` of tensors like `inputs`, and the gradients of what it gives for the `leaves` that it reads,
        which the backward pass hands to `put_gradients`."""
        wants_gradient = inputs[0].requires_grad
        self.inputs = tuple(value.detach().clone() for value in inputs)
        self.inputs[0].requires_grad_(wants_gradient)
        outputs: tuple[Tensor, ...] = ()

        def forward() -> None:
            nonlocal outputs
            outputs = compute(self.inputs)

        self.forward = recorder.record(forward)
        self.outputs = tuple(value.detach() for value in outputs)
        self.output_gradients = tuple(torch.zeros_like(value) for value in self.outputs)
        self.input_gradient: Tensor | None = None
        sources = [*leaves, self.inputs[0]] if wants_gradient else list(leaves)

        def backward() -> None:
            gradients = list(torch.autograd.grad(outputs, sources, self.output_gradients, allow_unused=True))
            self.input_gradient = gradients.pop() if wants_gradient else None
            put_gradients(gradients)

        self.backward = recorder.record(backward)
        outputs = ()  # and with them what autograd kept: the memory is the next graph's
        # Makes autograd call the backward pass also where no input wants a gradient.
        self._root = torch.zeros((), device=inputs[0].device, requires_grad=True)

    def replay(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """What `compute` gives for `inputs`, attached to their history."""
        return cast(tuple[Tensor, ...], _Replay.apply(self, inputs[1:], inputs[0], self._root))


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: TrainingGraph, others: Inputs, first: Tensor, root: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        ctx.graph = graph
        graph.inputs[0].detach().copy_(first)
        torch._foreach_copy_(list(graph.inputs[1:]), list(others))  # one kernel: they are of one type
        graph.forward.replay()
        return tuple(value.clone() for value in graph.outputs)  # the next replay writes to the same memory

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor | None, None]:
        graph: TrainingGraph = ctx.graph
        torch._foreach_copy_(list(graph.output_gradients), list(gradients))
        graph.backward.replay()
        return None, None, graph.input_gradient, None
