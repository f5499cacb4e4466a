"""The packed form on a GPU: the GPU's own attention kernel where it fits, and graphs of the shapes that come again."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch

from worker.distill.batches import Batch
from worker.distill.errors import is_out_of_memory
from worker.distill.network import Outputs
from worker.distill.optimizer import Tensors
from worker.distill.packed.cuda_step import CudaStep
from worker.distill.packed.dropout import DeviceMasks, Masks
from worker.distill.packed.flash import FlashAttention, ends_of_rows, has_flash_attention
from worker.distill.packed.functions import fused_attention
from worker.distill.packed.graphs import Inputs, Recorder, TrainingGraph
from worker.distill.packed.layout import Grid, Packing
from worker.distill.packed.linear import DirectLinear
from worker.distill.packed.network import PackedNetwork, Tokens
from worker.distill.parameterisation import Parameterisation

Tensor = torch.Tensor
# A shape is recorded when it is met for the second time: recording takes about as long as two steps without.
_RECORDED_AT_MEETING = 2
# What graphs may hold between them, as a part of the GPU's memory, when another one is recorded: batches of long rows
# come in many shapes, of which some then stay without a graph.
_MOST_OF_THE_MEMORY = 1 / 4


class CudaNetwork(PackedNetwork):
    _linear = DirectLinear

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, arithmetic: str) -> None:
        super().__init__(model, dtype, arithmetic)
        self._device = self.table.device
        head_width = self.table.shape[1] // self.heads
        self._has_flash = self._bias is None and has_flash_attention(self._device, dtype, head_width)
        self._masks = DeviceMasks(self._device)
        self._step: CudaStep | None = None
        self._room = 0.0  # bytes that graphs may come to hold beyond
        self._held = 0  # those that they hold
        self._forget_graphs()
        self._is_gathered = False  # the gradients of the pass under way are, or will be, where the optimiser looks

    def training_outputs(self, batch: Batch, dropout_seed: int) -> Outputs:
        tokens = self._look_up(batch, is_training=True)
        graph = self._graph(tokens)
        torch.cuda.manual_seed(dropout_seed)
        self._is_gathered = graph is not None
        if graph is None:
            return self._compute(tokens, self._masks)
        return Outputs(*graph.replay(_inputs(tokens)))

    def begin_training(
        self,
        weight_decay: float,
        word_rows: np.ndarray | None,
        parameterisation: Parameterisation | None,
        beside: Tensors = MappingProxyType({}),
    ) -> None:
        super().begin_training(weight_decay, word_rows, parameterisation, beside)
        self._step = None
        self._forget_graphs()  # another training may have other inputs that want a gradient
        if parameterisation is None and not beside:
            self._step = CudaStep(self.optimizer.adamw, self.weights, self._recorder)

    def end_training(self) -> None:
        super().end_training()
        self._step = None
        self._forget_graphs()

    def step(self, learning_rate: float) -> None:
        if not self._is_gathered:
            self.weights.gather_gradients()
        if self._step is None:  # what is behind the weights or beside them has a step of its own
            self.optimizer.step(learning_rate, self.weights.gradient)
            self.weights.refresh()
        else:
            self._step(learning_rate, self.words)

    def _attention(self, packing: Packing, masks: Masks | None) -> Callable[[Tensor], Tensor]:
        if self._bias is not None:
            return super()._attention(packing, masks)
        chance = 0.0 if masks is None else self._attention_chance
        if not self._has_flash:
            grid = Grid.of(packing, self.heads)
            return lambda projected: fused_attention(projected, grid, chance)
        ends = ends_of_rows(packing)
        longest = max(packing.length, packing.most_filled_up)
        return lambda projected: FlashAttention.apply(projected, ends, longest, self.heads, chance)

    def _graph(self, tokens: Tokens) -> TrainingGraph | None:
        if self._optimizer is None:  # who does not train may never go backward, which a recording relies on
            return None
        packing = tokens.packing
        shape = (packing.rows, len(packing.row_of), packing.length, packing.is_full)
        if shape in self._graphs:
            return self._graphs[shape]
        self._meetings[shape] = self._meetings.get(shape, 0) + 1
        if self._meetings[shape] < _RECORDED_AT_MEETING or self._room <= 0:
            return None
        self.weights.make_room_for_gradients()
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved(self._device)
        graph = self._recorded(tokens)
        taken = torch.cuda.memory_reserved(self._device) - held
        self._held += taken
        if graph is None or torch.cuda.mem_get_info(self._device)[0] < self._held:
            # What graphs hold between them, as much as the largest needs, serves them alone: the pass of a shape that
            # has none needs as much again.
            del graph
            self._do_without_graphs()
            return None
        self._room -= taken
        self._graphs[shape] = graph
        return graph

    def _recorded(self, tokens: Tokens) -> TrainingGraph | None:
        """The graph of a batch of this shape; None where the memory does not suffice."""

        def compute(inputs: Inputs) -> tuple[Tensor, Tensor]:
            outputs = self._compute(_with_inputs(tokens, inputs), self._masks)
            return outputs.logits, outputs.features

        try:
            return TrainingGraph(
                self._recorder, compute, _inputs(tokens), self.weights.leaves, self.weights.put_gradients
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _do_without_graphs(self) -> None:
        """From here on, but for the step's own, which holds next to nothing: it is recorded anew, since memory that a
        failed recording took is given back only when nothing that shares it is left."""
        self._forget_graphs()
        self._room = 0.0
        if self._step is not None:
            self._step.record_with(self._recorder)
            torch.cuda.empty_cache()

    def _forget_graphs(self) -> None:
        self._recorder = Recorder()
        self._meetings: dict[tuple[int, ...], int] = {}
        self._graphs: dict[tuple[int, ...], TrainingGraph] = {}
        self._held = 0
        torch.cuda.empty_cache()
        self._room = _MOST_OF_THE_MEMORY * torch.cuda.get_device_properties(self._device).total_memory


def _inputs(tokens: Tokens) -> Inputs:
    packing = tokens.packing
    inputs = (tokens.vectors, packing.lengths, packing.row_of, packing.position_of)
    return inputs if tokens.segments is None else (*inputs, tokens.segments)


def _with_inputs(tokens: Tokens, inputs: Inputs) -> Tokens:
    """`tokens` of the same shape with other content."""
    vectors, lengths, row_of, position_of, *segments = inputs
    packing = replace(tokens.packing, lengths=lengths, row_of=row_of, position_of=position_of)
    return Tokens(packing, vectors, segments[0] if segments else None)
