"""A teacher and a dataset small enough that a whole job takes seconds."""

import csv
import io
import random
from pathlib import Path
from typing import Any

WORDS = {
    "animal": ["cat", "dog", "horse", "otter", "crow", "trout"],
    "colour": ["red", "green", "violet", "amber", "grey", "teal"],
    "fruit": ["apple", "pear", "plum", "fig", "cherry", "quince"],
    "tool": ["hammer", "saw", "drill", "file", "pliers", "chisel"],
}
FILLERS = ["i", "met", "a", "the", "very", "old", "new", "one", "here", "there", "and", "then", "today"]
ROWS = {"train": 240, "validation": 60, "test": 60}

JOB: dict[str, Any] = {
    "student": {"layers": 2},
    "method": {"type": "sage", "rounds": 2, "warmup_epochs": 1.0, "neighbors": 5, "early_stopping": False},
    "training": {
        "epochs": 12,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "max_length": 16,
        "precision": "fp32",
        "seed": 11,
    },
    "teacher_tuning": {"epochs": 20, "batch_size": 16, "learning_rate": 3e-3},
    "baselines": ["fine_tune"],
    "metadata": {"team": "e2e"},
}


def rows(split: str) -> list[tuple[str, str]]:
    """The same rows on every call: a text, in which one word gives the label away, and the label."""
    chance = random.Random(split)
    made = []
    for index in range(ROWS[split]):
        label = sorted(WORDS)[index % len(WORDS)]
        words = chance.choices(FILLERS, k=chance.randint(3, 7))
        words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS[label]))
        made.append((" ".join(words), label))
    return made


def csv_bytes(split: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["text", "label"])
    writer.writerows(rows(split))
    return text.getvalue().encode()


def write_teacher(folder: Path) -> Path:
    """A BERT of 4 layers and width 32 with random weights and a WordPiece vocabulary of its own."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.fixtures.tiny_models import SPECIAL_TOKENS, write_tokenizer

    words = sorted({*FILLERS, *(word for group in WORDS.values() for word in group)})
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(words),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.15,  # at this width the usual 0.02 lets no signal through, and it learns nothing
    )
    BertModel(config).save_pretrained(folder)
    write_tokenizer(folder, words)
    return folder
