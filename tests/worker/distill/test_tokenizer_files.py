"""What a teacher's tokenizer files must not say, and which classes they may name."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from worker.distill.tokenizer_files import SETTINGS, SPECIAL_TOKENS, find_foreign_entry, is_fast


class TestFindForeignEntry:
    def test_none_where_the_files_name_tokens_and_notes_alone(self, tmp_path: Path) -> None:
        """Harm: models that older releases of transformers saved cannot be teachers."""
        notes = {"special_tokens_map_file": "/content/special_tokens_map.json", "tokenizer_file": "/content/t.json"}
        notes |= {"full_tokenizer_file": "/root/.cache/tokenizer.json"}
        empty = {"vocab_file": None, "init_inputs": []}
        settings = {"do_lower_case": True, "pad_token": "[PAD]", "name_or_path": "/content/bert", **notes, **empty}
        (tmp_path / SETTINGS).write_text(json.dumps(settings))
        tokens = {"pad_token": {"content": "[PAD]"}, "image_token": "<i>", "additional_special_tokens": ["<a>"]}
        (tmp_path / SPECIAL_TOKENS).write_text(json.dumps(tokens))
        assert find_foreign_entry(tmp_path) is None

    def test_none_where_there_are_no_files(self, tmp_path: Path) -> None:
        assert find_foreign_entry(tmp_path) is None

    @pytest.mark.parametrize("value", ["/etc/hostname", ["/etc/hostname"], {"word": 0}])
    def test_words_from_elsewhere_in_any_form(self, tmp_path: Path, value: object) -> None:
        (tmp_path / SETTINGS).write_text(json.dumps({"vocab": value}))
        assert "'vocab'" in str(find_foreign_entry(tmp_path))


class TestIsFast:
    def test_no_class_of_transformers_that_is_written_in_python(self) -> None:
        """Harm: a teacher whose tokenizer the engine cannot use is ready, and its jobs fail."""
        classes = {name: tokenizer_class_from_name(name) for name in TOKENIZER_MAPPING_NAMES.values() if name}
        slow = {name for name, kind in classes.items() if kind and not issubclass(kind, PreTrainedTokenizerFast)}
        assert {"BertJapaneseTokenizer", "BertweetTokenizer", "PhobertTokenizer"} <= slow
        assert {name for name in slow if is_fast(name)} == set()

    @pytest.mark.parametrize(
        "name",
        ["BertTokenizer", "BertTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast", "XLMRobertaTokenizer"],
    )
    def test_the_usual_ones(self, name: str) -> None:
        assert is_fast(name)

    @pytest.mark.parametrize("name", ["AutoModel", "AutoTokenizer", "5"])
    def test_none_that_is_no_tokenizer(self, name: str) -> None:
        assert not is_fast(name)
