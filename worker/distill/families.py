"""What differs between the encoder families: where the layers are and what the config calls them."""

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
    has_segments: bool
    embeddings_path: str
    layer_parts: LayerParts
    pooler_path: str  # what stands between the first token and the classifier
    pooler_activation: Literal["tanh", "relu"]
    activation_field: str  # of the feed-forward network, in the config
    dropout: DropoutFields
    drops_attention_output: bool

    def layers(self, model: torch.nn.Module) -> torch.nn.ModuleList:
        layers = model.get_submodule(self.layers_path)
        assert isinstance(layers, torch.nn.ModuleList)
        return layers


FAMILIES = {
    "bert": Family(
        layers_path="bert.encoder.layer",
        layers_field="num_hidden_layers",
        has_segments=True,
        embeddings_path="bert.embeddings",
        layer_parts=LayerParts(
            query="attention.self.query",
            key="attention.self.key",
            value="attention.self.value",
            output="attention.output.dense",
            attention_norm="attention.output.LayerNorm",
            up="intermediate.dense",
            down="output.dense",
            norm="output.LayerNorm",
        ),
        pooler_path="bert.pooler.dense",
        pooler_activation="tanh",
        activation_field="hidden_act",
        dropout=DropoutFields("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        drops_attention_output=True,
    ),
    "distilbert": Family(
        layers_path="distilbert.transformer.layer",
        layers_field="n_layers",
        has_segments=False,
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
}


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
