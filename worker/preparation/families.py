"""The model families that can be taught from, and the tensors that a folder of each must hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.quoting import quote
from worker.preparation.errors import PreparationFailed

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a config.json that decide the shapes of its weights."""

    vocabulary: int
    max_positions: int
    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int
    distance_buckets: int = 0  # 0 where the family has none


@dataclass(frozen=True)
class Family:
    """How one family names its configuration and its tensors."""

    model_type: str
    prefix: str  # before every tensor of the encoder, in files that also hold a head
    config_names: Mapping[str, tuple[str, int]]  # field of ModelSize -> (name in config.json, its default)
    layer_prefix: str
    layer_shapes: Callable[[ModelSize], Shapes]
    head_shapes: Callable[[int], Shapes]  # of hidden size: what a classifier has before its last layer
    classifier: str = "classifier"  # that last layer
    tokenizer: str = "BertTokenizer"  # what transformers builds where the files name none
    counts_positions_from_padding: bool = False  # the first token's position is the padding's id and one
    distance_buckets: str | None = None  # field of config.json, where attention has a bias by distance

    def read_size(self, config: Mapping[str, Any]) -> ModelSize:
        """The numbers of a parsed config.json; raises PreparationFailed where one makes no sense."""
        numbers = {}
        names = {**self.config_names}
        if self.distance_buckets is not None:
            names["distance_buckets"] = (self.distance_buckets, 32)
        for field, (name, default) in names.items():
            value = config.get(name, default)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PreparationFailed(
                    "teacher_weights_mismatch",
                    f"config.json has {name} {quote(value)}; it takes a whole number above 0.",
                )
            numbers[field] = value
        size = ModelSize(**numbers)
        if size.hidden_size % size.heads:
            raise PreparationFailed(
                "teacher_weights_mismatch",
                f"config.json has a hidden size of {size.hidden_size}, which {size.heads} attention heads "
                "cannot share evenly. It does not belong to a working model.",
            )
        return size

    def encoder_shapes(self, size: ModelSize) -> Shapes:
        """Every tensor that the encoder needs, without prefix."""
        width = size.hidden_size
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (size.vocabulary, width),
            "embeddings.position_embeddings.weight": (size.max_positions, width),
            **_norm("embeddings.LayerNorm", width),
        }
        if self.distance_buckets is not None:
            shapes["encoder.relative_attention_bias.weight"] = (size.distance_buckets, size.heads)
        for layer in range(size.layers):
            for name, shape in self.layer_shapes(size).items():
                shapes[f"{self.layer_prefix}.{layer}.{name}"] = shape
        return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _bert_layer(size: ModelSize) -> Shapes:
    width, inner = size.hidden_size, size.intermediate_size
    return {
        **_linear("attention.self.query", width, width),
        **_linear("attention.self.key", width, width),
        **_linear("attention.self.value", width, width),
        **_linear("attention.output.dense", width, width),
        **_norm("attention.output.LayerNorm", width),
        **_linear("intermediate.dense", width, inner),
        **_linear("output.dense", inner, width),
        **_norm("output.LayerNorm", width),
    }


def _mpnet_layer(size: ModelSize) -> Shapes:
    width, inner = size.hidden_size, size.intermediate_size
    return {
        **_linear("attention.attn.q", width, width),
        **_linear("attention.attn.k", width, width),
        **_linear("attention.attn.v", width, width),
        **_linear("attention.attn.o", width, width),
        **_norm("attention.LayerNorm", width),
        **_linear("intermediate.dense", width, inner),
        **_linear("output.dense", inner, width),
        **_norm("output.LayerNorm", width),
    }


def _distilbert_layer(size: ModelSize) -> Shapes:
    width, inner = size.hidden_size, size.intermediate_size
    return {
        **_linear("attention.q_lin", width, width),
        **_linear("attention.k_lin", width, width),
        **_linear("attention.v_lin", width, width),
        **_linear("attention.out_lin", width, width),
        **_norm("sa_layer_norm", width),
        **_linear("ffn.lin1", width, inner),
        **_linear("ffn.lin2", inner, width),
        **_norm("output_layer_norm", width),
    }


def _bert_names(vocabulary: int) -> dict[str, tuple[str, int]]:
    return {
        "vocabulary": ("vocab_size", vocabulary),
        "max_positions": ("max_position_embeddings", 512),
        "layers": ("num_hidden_layers", 12),
        "hidden_size": ("hidden_size", 768),
        "heads": ("num_attention_heads", 12),
        "intermediate_size": ("intermediate_size", 3072),
    }


def _dense_head(width: int) -> Shapes:
    return _linear("classifier.dense", width, width)


FAMILIES = {
    "bert": Family(
        model_type="bert",
        prefix="bert.",
        config_names=_bert_names(30522),
        layer_prefix="encoder.layer",
        layer_shapes=_bert_layer,
        head_shapes=lambda width: _linear("bert.pooler.dense", width, width),
    ),
    "distilbert": Family(
        model_type="distilbert",
        prefix="distilbert.",
        config_names={
            "vocabulary": ("vocab_size", 30522),
            "max_positions": ("max_position_embeddings", 512),
            "layers": ("n_layers", 6),
            "hidden_size": ("dim", 768),
            "heads": ("n_heads", 12),
            "intermediate_size": ("hidden_dim", 3072),
        },
        layer_prefix="transformer.layer",
        layer_shapes=_distilbert_layer,
        head_shapes=lambda width: _linear("pre_classifier", width, width),
    ),
    "mpnet": Family(
        model_type="mpnet",
        prefix="mpnet.",
        config_names=_bert_names(30527),
        layer_prefix="encoder.layer",
        layer_shapes=_mpnet_layer,
        head_shapes=_dense_head,
        classifier="classifier.out_proj",
        tokenizer="MPNetTokenizer",
        counts_positions_from_padding=True,
        distance_buckets="relative_attention_num_buckets",
    ),
    "roberta": Family(
        model_type="roberta",
        prefix="roberta.",
        config_names=_bert_names(50265),
        layer_prefix="encoder.layer",
        layer_shapes=_bert_layer,
        head_shapes=_dense_head,
        classifier="classifier.out_proj",
        tokenizer="RobertaTokenizer",
        counts_positions_from_padding=True,
    ),
}
