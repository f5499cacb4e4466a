"""What differs between the encoder families: where the layers are and what the config calls them."""

from dataclasses import dataclass
from typing import Any, cast

import torch

from worker.distill.errors import InvalidJob


@dataclass(frozen=True)
class Family:
    layers_path: str  # to the ModuleList of transformer layers, from the classification model
    layers_field: str  # of the config
    has_segments: bool

    def layers(self, model: torch.nn.Module) -> torch.nn.ModuleList:
        layers = model.get_submodule(self.layers_path)
        assert isinstance(layers, torch.nn.ModuleList)
        return layers


FAMILIES = {
    "bert": Family("bert.encoder.layer", "num_hidden_layers", has_segments=True),
    "distilbert": Family("distilbert.transformer.layer", "n_layers", has_segments=False),
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
