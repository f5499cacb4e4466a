"""Tiny teachers as real libraries save them, written once and copied for tests that damage them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_models import FAMILIES, write_classifier, write_encoder

WORDS = ["buy", "sell", "now", "later"]
LABELS = ["a", "b", "c"]

Damage = Callable[[Path], None]


@pytest.fixture(scope="session")
def tiny_teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return {
        **{family: write_classifier(folder / family, WORDS, LABELS, family=family) for family in FAMILIES},
        "encoder": write_encoder(folder / "encoder", WORDS),
    }


@pytest.fixture
def bert(tiny_teachers: dict[str, Path], tmp_path: Path) -> Path:
    """A BERT classifier's folder that the test may change."""
    return Path(shutil.copytree(tiny_teachers["bert"], tmp_path / "bert"))


def change_json(path: Path, **values: Any) -> None:
    """Set values of a JSON file; None removes."""
    content = json.loads(path.read_text())
    content |= values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
