"""Use the student the way anyone would: plain transformers, no Stillhouse."""

from collections.abc import Sequence
from pathlib import Path

from app.client.api import ClientError


def classify(folder: Path, texts: Sequence[str]) -> list[tuple[str, float]]:
    """The most probable label and its probability, 0 to 1, for each text."""
    try:
        # Here, because it takes seconds, and a client that only downloads need not have it.
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise ClientError(
            f"The student is at {folder}, but {error.name} is not installed here, so it cannot be tried out. "
            "Install it with: pip install transformers torch"
        ) from error

    logging.disable_progress_bar()  # half a second of it would break up the demo's own lines
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model(**inputs).logits.softmax(dim=-1)
    best = probabilities.max(dim=-1)
    return [
        (model.config.id2label[int(index)], float(probability))
        for index, probability in zip(best.indices, best.values, strict=True)
    ]
