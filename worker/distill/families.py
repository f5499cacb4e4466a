"""What differs between the encoder families: where the layers are and what the config calls them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from worker.distill.errors import InvalidJob


@dataclass(frozen=True)
class LayerParts:
    """The submodules of a transformer layer, from the layer."""

    query: str
    key: str
    value: str
    output: str  # of attention
    attention_norm: str
    up: str  # of the feed-forward network
    down: str
    norm: str


@dataclass(frozen=True)
class DropoutFields:
    """Where the config has the chances of dropout."""

    hidden: str
    attention: str
    head: str  # None in the config means as hidden


@dataclass(frozen=True)
class Family:
    layers_path: str  # to the ModuleList of transformer layers, from the classification model
    layers_field: str  # of the config
    has_segments: bool  # the model is told which of two texts a token is of
    has_segment_table: bool  # of which the first row is added where it is not told
    embeddings_path: str
    layer_parts: LayerParts
    pooler_path: str  # what stands between the first token and the classifier
    pooler_activation: Literal["tanh", "relu"]
    activation_field: str  # of the feed-forward network, in the config
    dropout: DropoutFields
    drops_attention_output: bool = True
    drops_before_pooler: bool = False
    classifier_path: str = "classifier"
    counts_positions_from_padding: bool = False  # the first token's position is the padding's id and one
    relative_bias_path: str | None = None  # to what attention adds by distance, one table for all layers
    has_sdpa: bool = True

    def layers(self, model: torch.nn.Module) -> torch.nn.ModuleList:
        layers = model.get_submodule(self.layers_path)
        assert isinstance(layers, torch.nn.ModuleList)
        return layers

    def first_position(self, config: Any) -> int:
        """The row of the position table that the first token gets."""
        return config.pad_token_id + 1 if self.counts_positions_from_padding else 0

    def attention(self, wanted: str) -> str:
        """`wanted` where transformers has that form of attention for the family, else the plain one."""
        return wanted if self.has_sdpa else "eager"


_BERT_LAYER = LayerParts(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm="output.LayerNorm",
)

FAMILIES = {
    "bert": Family(
        layers_path="bert.encoder.layer",
        layers_field="num_hidden_layers",
        has_segments=True,
        has_segment_table=True,
        embeddings_path="bert.embeddings",
        layer_parts=_BERT_LAYER,
        pooler_path="bert.pooler.dense",
        pooler_activation="tanh",
        activation_field="hidden_act",
        dropout=DropoutFields("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    ),
    "distilbert": Family(
        layers_path="distilbert.transformer.layer",
        layers_field="n_layers",
        has_segments=False,
        has_segment_table=False,
        embeddings_path="distilbert.embeddings",
        layer_parts=LayerParts(
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            output="attention.out_lin",
            attention_norm="sa_layer_norm",
            up="ffn.lin1",
            down="ffn.lin2",
            norm="output_layer_norm",
        ),
        pooler_path="pre_classifier",
        pooler_activation="relu",
        activation_field="activation",
        dropout=DropoutFields("dropout", "attention_dropout", "seq_classif_dropout"),
        drops_attention_output=False,
    ),
    "mpnet": Family(
        layers_path="mpnet.encoder.layer",
        layers_field="num_hidden_layers",
        has_segments=False,
        has_segment_table=False,
        embeddings_path="mpnet.embeddings",
        layer_parts=LayerParts(
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            output="attention.attn.o",
            attention_norm="attention.LayerNorm",
            up="intermediate.dense",
            down="output.dense",
            norm="output.LayerNorm",
        ),
        pooler_path="classifier.dense",
        pooler_activation="tanh",
        activation_field="hidden_act",
        dropout=DropoutFields("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout_prob"),
        drops_before_pooler=True,
        classifier_path="classifier.out_proj",
        counts_positions_from_padding=True,
        relative_bias_path="mpnet.encoder.relative_attention_bias",
        has_sdpa=False,
    ),
    "roberta": Family(
        layers_path="roberta.encoder.layer",
        layers_field="num_hidden_layers",
        has_segments=False,
        has_segment_table=True,
        embeddings_path="roberta.embeddings",
        layer_parts=_BERT_LAYER,
        pooler_path="classifier.dense",
        pooler_activation="tanh",
        activation_field="hidden_act",
        dropout=DropoutFields("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        drops_before_pooler=True,
        classifier_path="classifier.out_proj",
        counts_positions_from_padding=True,
    ),
}


def pool_activation(family: Family) -> Callable[[torch.Tensor], torch.Tensor]:
    """What comes behind the pooler's product."""
    return torch.tanh if family.pooler_activation == "tanh" else torch.relu


def count_layers(model: torch.nn.Module) -> int:
    """How many transformer layers it has."""
    return len(family_of(model.config).layers(model))


def last_layer(model: torch.nn.Module) -> torch.nn.Linear:
    """The linear layer that gives the logits."""
    layer = model.get_submodule(family_of(model.config).classifier_path)
    assert isinstance(layer, torch.nn.Linear)
    return layer


def word_table(model: torch.nn.Module) -> torch.nn.Parameter:
    """(vocabulary, width) the word-embedding table."""
    return cast(Any, model).get_input_embeddings().weight


def family_of(config: Any) -> Family:
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise InvalidJob(
            f"the teacher is of family {config.model_type!r}; supported are {', '.join(FAMILIES)}."
        ) from None
