"""A BERT-like classifier computed on packed tokens, reading and training the weights of a plain transformers model.

The same function as the model's own forward (tests hold one against the other, gradients too), without padding,
with one product for queries, keys and values, without what of the last layer nothing reads (the head looks at each
row's first token), and in bf16 where the run computes so: activations in bf16, sums of products, softmax and
LayerNorm statistics in fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as functional

from worker.distill.batches import Batch
from worker.distill.families import Family, family_of, pool_activation, word_table
from worker.distill.network import Network, Outputs
from worker.distill.packed.dropout import BitMasks, Masks, keep
from worker.distill.packed.functions import Attention, DropAddNorm, FirstAttention
from worker.distill.packed.layout import Grid, Packing
from worker.distill.packed.linear import DirectLinear, Linear
from worker.distill.packed.tables import RelativeBias, look_up
from worker.distill.packed.weights import FlatWeights
from worker.distill.vectors import shift_of_a_word

Tensor = torch.Tensor


def can_pack(model: torch.nn.Module) -> bool:
    """Whether the packed form is this model's: an encoder with GELU."""
    config = cast(Any, model.config)
    return (
        getattr(config, family_of(config).activation_field) == "gelu"
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "sinusoidal_pos_embds", False)
    )


@dataclass(frozen=True)
class Tokens:
    """What of a batch enters the layers."""

    packing: Packing
    vectors: Tensor  # (tokens, width) fp32, those of the words, moved by their row's shift
    segments: Tensor | None  # (tokens,) int64, where the model has a table of them


class PackedNetwork(Network):
    """`model`'s logits from packed tokens. The model's trainable parameters become views of `weights`."""

    _linear: type[Linear | DirectLinear] = Linear

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, arithmetic: str) -> None:
        super().__init__()
        self.model = model
        self.arithmetic = arithmetic
        config = cast(Any, model.config)
        self.family: Family = family_of(config)
        self.dtype = dtype
        self.heads = config.num_attention_heads
        self.table = word_table(model)
        self.weights = FlatWeights(_in_runs(model, self.family), dtype)
        names = self.family
        chances = names.dropout
        self._hidden_chance: float = getattr(config, chances.hidden)
        self._attention_chance: float = getattr(config, chances.attention)
        head_chance = getattr(config, chances.head)
        self._head_chance: float = self._hidden_chance if head_chance is None else head_chance
        embeddings = names.embeddings_path
        self._positions = self.weights.read(f"{embeddings}.position_embeddings.weight", is_exact=True)
        self._segments = None
        if names.has_segment_table:
            self._segments = self.weights.read(f"{embeddings}.token_type_embeddings.weight", is_exact=True)
        self._norm = _Norm(self.weights, f"{embeddings}.LayerNorm", model, is_exact=True)
        parts = names.layer_parts
        *paths, last = (f"{names.layers_path}.{index}" for index in range(len(names.layers(model))))
        asks, told = (parts.query,), (parts.key, parts.value)
        self._layers = [_Layer(self.weights, path, names, model, self._linear, asks + told) for path in paths]
        self._last_layer = _Layer(self.weights, last, names, model, self._linear, told)
        self._queries_of_first = self._linear(self.weights, f"{last}.{parts.query}")
        self._first_position = names.first_position(config)
        self._bias = RelativeBias(self.weights, model, names.relative_bias_path) if names.relative_bias_path else None
        self._pooler = Linear(self.weights, names.pooler_path)
        self._classifier = Linear(self.weights, names.classifier_path)
        self._pool = pool_activation(names)

    def training_outputs(self, batch: Batch, dropout_seed: int) -> Outputs:
        return self._compute(self._look_up(batch, is_training=True), BitMasks(dropout_seed))

    @torch.inference_mode()
    def outputs(self, batch: Batch) -> Outputs:
        if self.words is not None:
            self.words.catch_up()
        return self._compute(self._look_up(batch, is_training=False), None)

    def refresh(self) -> None:
        self.weights.refresh()

    def end_training(self) -> None:
        super().end_training()
        for master in self.weights.masters:
            master.grad = None

    def step(self, learning_rate: float) -> None:
        self.weights.gather_gradients()
        self.optimizer.step(learning_rate, self.weights.gradient)
        self.weights.refresh()

    def _groups(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        decayed, plain = self.weights.masters
        return [decayed], [plain]

    def _adamw_state(self, adamw: torch.optim.AdamW) -> dict[str, Tensor]:
        return self.weights.optimizer_state(adamw)

    def _load_adamw_state(self, adamw: torch.optim.AdamW, saved: dict[str, Tensor]) -> None:
        self.weights.load_optimizer_state(adamw, saved)

    def _look_up(self, batch: Batch, *, is_training: bool) -> Tokens:
        """The batch's tokens, packed."""
        packing, places = Packing.of(batch)
        if is_training and self.words is not None:
            assert batch.words is not None, "a batch to train words on lists them"
            vectors = self.words.look_up(batch.words.ids, batch.words.which.flatten()[places])
        else:
            vectors = functional.embedding(batch.ids.flatten()[places], self.table)
        if batch.shifts is not None:
            shift = shift_of_a_word(batch, batch.shifts)[packing.row_of]
            vectors = vectors + shift * ~batch.is_special.flatten()[places][:, None]
        segments = None
        if self._segments is not None:
            segments = batch.segments.flatten()[places]
            if not self.family.has_segments:
                segments = torch.zeros_like(segments)
        return Tokens(packing, vectors, segments)

    def _compute(self, tokens: Tokens, masks: Masks | None) -> Outputs:
        """With `masks` as in training, without as in evaluation."""
        hidden = self._embed(tokens, masks)
        if self._layers:
            attend = self._attention(tokens.packing, masks)
        for layer in self._layers:
            hidden = self._behind_attention(layer, attend(layer.projection(hidden)), hidden, masks)
        first = hidden.index_select(0, tokens.packing.starts())
        context = self._context_of_first(first, hidden, tokens.packing, masks)
        first = self._behind_attention(self._last_layer, context, first, masks)
        if self.family.drops_before_pooler:
            first = self._drop(first, masks, self._head_chance)
        features = self._pool(self._pooler(first))
        pooled = self._drop(features, masks, self._head_chance)
        return Outputs(self._classifier(pooled).float(), features.float())

    def _behind_attention(self, layer: "_Layer", context: Tensor, hidden: Tensor, masks: Masks | None) -> Tensor:
        """(tokens, width) what a layer makes of the `hidden` that it was given and the `context` it found for them."""
        # DistilBERT drops nothing behind its attention.
        chance = self._hidden_chance if self.family.drops_attention_output else 0.0
        mask = self._mask(masks, hidden.shape, chance)
        hidden = layer.attention_norm(layer.output(context), hidden, mask, chance)
        inner = functional.gelu(layer.up(hidden))
        mask = self._mask(masks, hidden.shape, self._hidden_chance)
        return layer.norm(layer.down(inner), hidden, mask, self._hidden_chance)

    def _context_of_first(self, first: Tensor, hidden: Tensor, packing: Packing, masks: Masks | None) -> Tensor:
        """(rows, width): what the last layer's attention gives the rows' `first` tokens (rows, width)."""
        grid = packing.token_grid
        bias = None if self._bias is None else self._bias.of(grid.length, queries=1)[:, 0]
        chance = self._attention_chance
        mask = self._mask(masks, (grid.rows, grid.length, self.heads), chance, torch.float32)
        queries, projected = self._queries_of_first(first), self._last_layer.projection(hidden)
        return cast(Tensor, FirstAttention.apply(queries, projected, grid, bias, mask, chance, self.heads))

    def _attention(self, packing: Packing, masks: Masks | None) -> Callable[[Tensor], Tensor]:
        """From (tokens, 3 * width) queries, keys and values to (tokens, width), the same way in every layer."""
        grid = Grid.of(packing, self.heads)
        bias = None if self._bias is None else self._bias.of(grid.length)
        shape = (grid.rows * grid.heads, grid.length, grid.length)
        chance = self._attention_chance
        return lambda projected: Attention.apply(projected, grid, bias, self._mask(masks, shape, chance), chance)

    def _embed(self, tokens: Tokens, masks: Masks | None) -> Tensor:
        """(tokens, width): the vectors with positions and segments, normed."""
        packing = tokens.packing
        last = self._first_position + packing.length
        positions = look_up(self._positions[self._first_position : last], packing.position_of, packing.length)
        total = tokens.vectors + positions
        if self._segments is not None:
            assert tokens.segments is not None
            total = total + look_up(self._segments, tokens.segments, len(self._segments))
        normed = functional.layer_norm(total, total.shape[-1:], self._norm.weight, self._norm.bias, self._norm.epsilon)
        return self._drop(normed.to(self.dtype), masks, self._hidden_chance)

    def _mask(
        self, masks: Masks | None, shape: tuple[int, ...], chance: float, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        return masks.draw(tuple(shape), chance, dtype or self.dtype) if masks is not None and chance > 0 else None

    def _drop(self, values: Tensor, masks: Masks | None, chance: float) -> Tensor:
        mask = self._mask(masks, values.shape, chance)
        return values if mask is None else _Keep.apply(values, mask, 1 / (1 - chance))


class _Keep(torch.autograd.Function):
    """Plain dropout by a mask."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return keep(values, mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return keep(gradient.contiguous(), mask).mul_(ctx.scale), None, None


class _Norm:
    def __init__(self, weights: FlatWeights, path: str, model: torch.nn.Module, *, is_exact: bool) -> None:
        self.weight = weights.read(f"{path}.weight", is_exact=is_exact)
        self.bias = weights.read(f"{path}.bias", is_exact=is_exact)
        self.epsilon = cast(torch.nn.LayerNorm, model.get_submodule(path)).eps

    def __call__(self, values: Tensor, residual: Tensor, mask: Tensor | None, chance: float) -> Tensor:
        return cast(Tensor, DropAddNorm.apply(values, residual, self.weight, self.bias, self.epsilon, mask, chance))


class _Layer:
    def __init__(
        self,
        weights: FlatWeights,
        path: str,
        family: Family,
        model: torch.nn.Module,
        linear: type[Linear | DirectLinear],
        projected: Sequence[str],
    ) -> None:
        """`projected` are those of queries, keys and values that one product makes for all tokens."""
        parts = family.layer_parts
        self.projection = linear(weights, *(f"{path}.{part}" for part in projected))
        self.output = linear(weights, f"{path}.{parts.output}")
        # A GPU's LayerNorm wants its weights in the precision of what it norms.
        is_exact = next(model.parameters()).device.type == "cpu"
        self.attention_norm = _Norm(weights, f"{path}.{parts.attention_norm}", model, is_exact=is_exact)
        self.up = linear(weights, f"{path}.{parts.up}")
        self.down = linear(weights, f"{path}.{parts.down}")
        self.norm = _Norm(weights, f"{path}.{parts.norm}", model, is_exact=is_exact)


def _in_runs(model: torch.nn.Module, family: Family) -> list[dict[str, torch.nn.Parameter]]:
    """The trainable parameters, each layer's queries, keys and values side by side, the others one by one."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts = family.layer_parts
    runs: list[dict[str, torch.nn.Parameter]] = []
    for index in range(len(family.layers(model))):
        for kind in ("weight", "bias"):
            paths = (f"{family.layers_path}.{index}.{part}.{kind}" for part in (parts.query, parts.key, parts.value))
            runs.append({path: trainable.pop(path) for path in paths})
    return runs + [{name: parameter} for name, parameter in trainable.items()]
