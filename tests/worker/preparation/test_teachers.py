"""A folder is a teacher or says why not, before torch ever sees it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
)

from tests.fixtures.tiny_models import FAMILIES, POSITIONS, SPECIAL_TOKENS, build_classifier
from tests.worker.preparation.conftest import LABELS, WORDS, change_json
from worker.distill.device import Compute
from worker.distill.errors import InvalidJob
from worker.distill.teacher import load_teacher, load_tokenizer
from worker.preparation.errors import PreparationFailed
from worker.preparation.folder_source import copy_folder
from worker.preparation.teacher_files import choose_files
from worker.preparation.teachers import describe_teacher


def refusal(folder: Path) -> PreparationFailed:
    with pytest.raises(PreparationFailed) as caught:
        describe_teacher(folder)
    return caught.value


class TestDescribeTeacher:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_classifier_of_each_family(self, tiny_teachers: dict[str, Path], family: str) -> None:
        summary = describe_teacher(tiny_teachers[family]).summary
        model = AutoModelForSequenceClassification.from_pretrained(tiny_teachers[family])

        assert (summary.family, summary.layers, summary.hidden_size) == (family, 4, 32)
        assert (summary.num_labels, summary.labels, summary.max_positions) == (3, LABELS, 32)
        assert summary.parameters == sum(parameter.numel() for parameter in model.parameters())

    def test_encoder_without_a_head_has_no_labels(self, tiny_teachers: dict[str, Path]) -> None:
        summary = describe_teacher(tiny_teachers["encoder"]).summary
        assert (summary.num_labels, summary.labels) == (None, None)

    def test_head_of_another_task_counts_as_no_head(self, bert: Path) -> None:
        change_json(bert / "config.json", architectures=["BertForTokenClassification"])
        assert describe_teacher(bert).summary.num_labels is None

    def test_regression_counts_as_no_head(self, bert: Path) -> None:
        change_json(bert / "config.json", problem_type="regression")
        assert describe_teacher(bert).summary.num_labels is None

    def test_sharded_weights(self, bert: Path) -> None:
        whole = describe_teacher(bert).summary
        model = AutoModelForSequenceClassification.from_pretrained(bert)
        (bert / "model.safetensors").unlink()
        model.save_pretrained(bert, max_shard_size="20KB")
        assert (bert / "model.safetensors.index.json").exists()
        assert describe_teacher(bert).summary == whole

    def test_hash_follows_the_content_and_not_the_place(self, bert: Path, tiny_teachers: dict[str, Path]) -> None:
        assert describe_teacher(bert).sha256 == describe_teacher(tiny_teachers["bert"]).sha256
        change_json(bert / "config.json", hidden_dropout_prob=0.2)
        assert describe_teacher(bert).sha256 != describe_teacher(tiny_teachers["bert"]).sha256

    def test_unsupported_family(self, bert: Path) -> None:
        change_json(bert / "config.json", model_type="xlnet")
        failure = refusal(bert)
        assert failure.code == "teacher_family_unsupported"
        assert "'xlnet'" in failure.message
        assert "bert, distilbert, mpnet or roberta" in failure.message

    def test_code_of_its_own_is_never_run(self, bert: Path) -> None:
        change_json(bert / "config.json", auto_map={"AutoModel": "modeling.Own"})
        assert refusal(bert).code == "teacher_family_unsupported"

    def test_config_that_is_not_json(self, bert: Path) -> None:
        (bert / "config.json").write_text("{")
        assert refusal(bert).code == "teacher_files_missing"

    @pytest.mark.parametrize(
        ("values", "what"),
        [
            ({"hidden_size": 48}, "has the shape"),
            ({"num_hidden_layers": 3}, "the weights have 4 layers, config.json says 3"),
            ({"num_hidden_layers": 5}, "have no 'bert.encoder.layer.4."),
            ({"vocab_size": 7}, "word_embeddings"),
            ({"id2label": {"0": "a", "1": "b"}}, "3 outputs, id2label in config.json names 2"),
            ({"num_attention_heads": 5}, "cannot share evenly"),
            ({"hidden_size": "32"}, "takes a whole number"),
        ],
    )
    def test_weights_that_do_not_fit_the_config(self, bert: Path, values: dict[str, object], what: str) -> None:
        change_json(bert / "config.json", **values)
        failure = refusal(bert)
        assert failure.code == "teacher_weights_mismatch"
        assert what.lower() in failure.message.lower()

    @pytest.mark.parametrize("padding", [None, -1])
    def test_one_that_counts_positions_by_a_padding_that_it_does_not_name(
        self, padding: int | None, tiny_teachers: dict[str, Path], tmp_path: Path
    ) -> None:
        """Harm: every job on it ends with an internal error."""
        shutil.copytree(tiny_teachers["roberta"], tmp_path / "teacher")
        config = json.loads((tmp_path / "teacher/config.json").read_text())
        (tmp_path / "teacher/config.json").write_text(json.dumps(config | {"pad_token_id": padding}))
        failure = refusal(tmp_path / "teacher")
        assert failure.code == "teacher_weights_mismatch"
        assert f"pad_token_id in config.json is '{padding}', and a roberta counts" in failure.message

    @pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64])
    def test_weights_that_are_something_else(self, bert: Path, content: bytes) -> None:
        (bert / "model.safetensors").write_bytes(content)
        failure = refusal(bert)
        assert failure.code == "teacher_weights_mismatch"
        assert "model.safetensors" in failure.message

    def test_weights_that_are_cut_off(self, bert: Path) -> None:
        path = bert / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        failure = refusal(bert)
        assert failure.code == "teacher_weights_mismatch"
        assert "where its header promises" in failure.message

    def test_quantised_weights(self, bert: Path) -> None:
        tensors = load_file(bert / "model.safetensors")
        name = "bert.encoder.layer.0.intermediate.dense.weight"
        save_file({**tensors, name: tensors[name].char()}, bert / "model.safetensors")
        assert "I8" in refusal(bert).message

    def test_part_that_the_index_names_is_missing(self, bert: Path) -> None:
        AutoModelForSequenceClassification.from_pretrained(bert).save_pretrained(bert, max_shard_size="20KB")
        (bert / "model.safetensors").unlink(missing_ok=True)
        next(bert.glob("model-00002-*")).unlink()
        assert refusal(bert).code == "teacher_files_missing"

    def test_tokenizer_with_more_words_than_the_model(self, bert: Path) -> None:
        path = bert / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["vocab"]["extra"] = 99
        path.write_text(json.dumps(content))
        failure = refusal(bert)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert "ids up to 99" in failure.message

    @pytest.mark.parametrize("content", ["{", '{"model": {"type": "Own"}}', "[]", "null"])
    def test_tokenizer_that_cannot_be_read(self, bert: Path, content: str) -> None:
        (bert / "tokenizer.json").write_text(content)
        assert refusal(bert).code == "teacher_tokenizer_unsupported"

    @pytest.mark.parametrize("kind", ["BertJapaneseTokenizer", "BertweetTokenizer", "PhobertTokenizer", "AutoModel"])
    def test_slow_tokenizer_beside_the_file_of_a_fast_one(self, bert: Path, kind: str) -> None:
        """Harm: the teacher is ready, and its jobs die of a tokenizer that the engine cannot use."""
        change_json(bert / "tokenizer_config.json", tokenizer_class=kind)
        failure = refusal(bert)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert kind in failure.message
        with pytest.raises(InvalidJob, match=kind):
            load_tokenizer(bert)

    def test_slow_tokenizer_of_another_kind(self, bert: Path) -> None:
        (bert / "tokenizer.json").unlink()
        (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n")
        change_json(bert / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer")
        failure = refusal(bert)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert "BertJapaneseTokenizer" in failure.message


class TestLabels:
    @pytest.mark.parametrize(
        ("names", "labels"), [([0, 1, 2], ["0", "1", "2"]), ([True, 2.0, "c"], ["true", "2", "c"])]
    )
    def test_that_are_no_text_are_written_as_a_dataset_has_them(
        self, bert: Path, names: list[object], labels: list[str]
    ) -> None:
        """Harm: what run_glue.py saves of a dataset with whole numbers as labels is ready, and no job can load it."""
        change_json(bert / "config.json", id2label=dict(enumerate(names)), label2id=dict.fromkeys(labels, 0))
        assert describe_teacher(bert).summary.labels == labels
        compute = Compute(torch.device("cpu"), "fp32", threads=1, attention="eager", is_deterministic=True)
        model = load_teacher(bert, labels, compute, may_grow_head=False, seed=0)
        assert model.config.id2label == dict(enumerate(labels))

    def test_of_a_head_of_another_task_are_written_as_text_too(self, bert: Path) -> None:
        number = {"0": 0, "1": 1, "2": 2}
        change_json(bert / "config.json", architectures=["BertForTokenClassification"], id2label=number)
        assert describe_teacher(bert).summary.labels is None
        assert AutoConfig.from_pretrained(bert).id2label == {0: "0", 1: "1", 2: "2"}

    def test_that_are_text_stay_as_they_are_to_the_byte(self, bert: Path) -> None:
        content = (bert / "config.json").read_bytes()
        describe_teacher(bert)
        assert (bert / "config.json").read_bytes() == content

    @pytest.mark.parametrize(
        ("name", "what"),
        [("x" * 201, "201 characters"), ("a\0", "a NUL"), ("\ud83d", "a surrogate pair")],
        ids=["long", "nul", "surrogate"],
    )
    def test_that_no_class_can_have(self, bert: Path, name: str, what: str) -> None:
        """Harm: names without a bound are in every page of teachers, and others in no database."""
        change_json(bert / "config.json", id2label={"0": "a", "1": name, "2": "c"})
        failure = refusal(bert)
        assert failure.code == "teacher_weights_mismatch"
        assert what in failure.message

    def test_of_the_longest_length(self, bert: Path) -> None:
        change_json(bert / "config.json", id2label={"0": "a", "1": "x" * 200, "2": "c"})
        assert describe_teacher(bert).summary.labels == ["a", "x" * 200, "c"]

    def test_of_more_classes_than_a_dataset_has(self, bert: Path) -> None:
        names = [f"LABEL_{index}" for index in range(10_001)]
        build_classifier("bert", len(SPECIAL_TOKENS) + len(WORDS), names).save_pretrained(bert)
        failure = refusal(bert)
        assert failure.code == "teacher_weights_mismatch"
        assert "10001 outputs; a dataset has at most 10000 classes" in failure.message


class TestPreparationFailed:
    def test_its_message_is_cut_where_a_row_has_no_use_for_more(self) -> None:
        message = "x" * 2_000
        assert PreparationFailed("some_code", message).message == message
        cut = PreparationFailed("some_code", message + "x")
        assert cut.message == str(cut) == "x" * 1_999 + "…"


def write_unnamed(folder: Path, family: str) -> PreTrainedTokenizerBase:
    """A teacher whose tokenizer files name neither a class nor a special token, as roberta-base has them."""
    tokenizer = build_tokenizer(family)
    build_classifier(family, len(tokenizer), LABELS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": POSITIONS}))
    assert not (folder / "special_tokens_map.json").exists()
    return tokenizer


def write_word_list(folder: Path, family: str) -> PreTrainedTokenizerBase:
    """As `write_unnamed`, with the words in a plain vocab.txt."""
    tokenizer = write_unnamed(folder, family)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (folder / "tokenizer.json").unlink()
    return tokenizer


def build_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """The family's own kind of tokenizer, with its special tokens where its configuration has them."""
    if family in ("bert", "distilbert"):
        return BertTokenizer(vocab=numbered([*SPECIAL_TOKENS, *WORDS]))
    if family == "mpnet":
        return MPNetTokenizer(vocab=numbered(["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS]))
    letters = sorted({letter for word in WORDS for letter in word})
    return RobertaTokenizer(
        vocab=numbered(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "Ġ", "bu", "buy"]),
        merges=[("b", "u"), ("bu", "y")],
    )


def numbered(words: list[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


class TestUnnamedTokenizer:
    """Where the files name no class and no padding, they are those of the family."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_is_taken_as_the_engine_loads_it(self, tmp_path: Path, family: str) -> None:
        """Harm: roberta-base, whose tokenizer_config.json says no more than a length, cannot be a teacher."""
        tokenizer = write_unnamed(tmp_path, family)
        assert describe_teacher(tmp_path).summary.num_labels == 3
        self.check_engine(tmp_path, tokenizer)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_without_any_configuration(self, tmp_path: Path, family: str) -> None:
        tokenizer = write_unnamed(tmp_path, family)
        (tmp_path / "tokenizer_config.json").unlink()
        assert describe_teacher(tmp_path).summary.num_labels == 3
        self.check_engine(tmp_path, tokenizer)

    @pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
    def test_of_a_plain_word_list(self, tmp_path: Path, family: str) -> None:
        tokenizer = write_word_list(tmp_path, family)
        assert describe_teacher(tmp_path).summary.num_labels == 3
        self.check_engine(tmp_path, tokenizer)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_class_named_by_the_models_configuration(self, tmp_path: Path, family: str) -> None:
        tokenizer = write_unnamed(tmp_path, family)
        change_json(tmp_path / "config.json", tokenizer_class=type(tokenizer).__name__)
        assert describe_teacher(tmp_path).summary.num_labels == 3
        self.check_engine(tmp_path, tokenizer)

    def test_word_list_that_the_family_does_not_read(self, tmp_path: Path) -> None:
        """Harm: transformers makes a RoBERTa's tokenizer without words of it, and the job trains on nothing."""
        write_unnamed(tmp_path, "roberta")
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
        failure = refusal(tmp_path)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert "'RobertaTokenizer' without tokenizer.json" in failure.message

    def test_without_the_familys_padding(self, tmp_path: Path) -> None:
        tokenizer = BertTokenizer(vocab=numbered([*SPECIAL_TOKENS, *WORDS]))
        build_classifier("roberta", len(tokenizer), LABELS).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
        failure = refusal(tmp_path)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert "no padding token ('<pad>')" in failure.message

    def check_engine(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        texts = ["buy now", "sell"]
        loaded = load_tokenizer(folder)
        compute = Compute(torch.device("cpu"), "fp32", threads=1, attention="eager", is_deterministic=True)
        model = load_teacher(folder, LABELS, compute, may_grow_head=False, seed=0).eval()

        assert len(loaded) == len(tokenizer), "a token that the words had not would have no vector"
        assert loaded.pad_token_id == model.config.pad_token_id
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
        with torch.inference_mode():
            alone = model(**loaded(texts[1:], return_tensors="pt")).logits
            padded = model(**loaded(texts, padding=True, return_tensors="pt")).logits
        torch.testing.assert_close(padded[1:], alone, atol=1e-5, rtol=0)


class TestForeignEntries:
    """Harm: the words of any file of the worker are the tokenizer's, and the student carries them out."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A teacher with a plain word list, beside a file that is none of its own."""
        write_word_list(tmp_path / "teacher", "bert")
        (tmp_path / "secret").write_text("".join(f"{word}\n" for word in [*SPECIAL_TOKENS, "password"]))
        return tmp_path / "teacher"

    def check_refused(self, folder: Path, name: str) -> None:
        failure = refusal(folder)
        assert failure.code == "teacher_tokenizer_unsupported"
        assert repr(name) in failure.message
        assert "Remove that entry." in failure.message
        with pytest.raises(InvalidJob, match=repr(name)):  # a teacher that was ready before is not checked again
            load_tokenizer(folder)

    @pytest.mark.parametrize("name", ["vocab", "vocab_file", "merges", "init_inputs", "gguf_file", "entity_vocab"])
    def test_of_the_settings_are_refused(self, folder: Path, name: str) -> None:
        change_json(folder / "tokenizer_config.json", **{name: str(folder.parent / "secret")})
        self.check_refused(folder, name)

    @pytest.mark.parametrize("name", ["vocab", "vocab_file", "tokenizer_file", "init_inputs"])
    def test_of_the_special_tokens_are_refused(self, folder: Path, name: str) -> None:
        special = {"pad_token": "[PAD]", name: str(folder.parent / "secret")}
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        self.check_refused(folder, name)

    def test_beside_a_whole_tokenizer_are_refused_too(self, bert: Path) -> None:
        change_json(bert / "tokenizer_config.json", vocab=str(bert / "secret"))
        self.check_refused(bert, "vocab")

    def test_what_older_releases_of_transformers_noted_is_taken(self, folder: Path) -> None:
        notes = {"special_tokens_map_file": "/content/special_tokens_map.json", "tokenizer_file": None}
        (folder / "tokenizer_config.json").write_text(json.dumps(notes | {"vocab_file": None, "init_inputs": []}))
        tokens = {"pad_token": {"content": "[PAD]", "lstrip": False}, "additional_special_tokens": []}
        (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
        assert describe_teacher(folder).summary.num_labels == 3
        assert load_tokenizer(folder)("buy now").input_ids == [2, 5, 7, 3]


class TestChooseFiles:
    FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")

    def test_takes_nothing_that_could_run(self) -> None:
        names = [*self.FILES, "pytorch_model.bin", "modeling.py", "README.md", "onnx/model.onnx"]
        assert choose_files(names, place="here") == ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]

    @pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "last.ckpt", "weights.pkl"])
    def test_pickles_alone_are_refused_by_name(self, pickle: str) -> None:
        with pytest.raises(PreparationFailed) as caught:
            choose_files(["config.json", "tokenizer.json", pickle], place="org/model")
        assert caught.value.code == "teacher_weights_not_safetensors"
        assert pickle in caught.value.message
        assert "save_pretrained" in caught.value.message

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    def test_missing_file(self, missing: str) -> None:
        with pytest.raises(PreparationFailed) as caught:
            choose_files([name for name in self.FILES if name != missing], place="org/model")
        assert caught.value.code == "teacher_files_missing"
        assert missing in caught.value.message

    def test_missing_tokenizer(self) -> None:
        with pytest.raises(PreparationFailed) as caught:
            choose_files(["config.json", "model.safetensors"], place="org/model")
        assert caught.value.code == "teacher_files_missing"
        assert "tokenizer" in caught.value.message


class TestCopyFolder:
    def test_copies_the_teacher_and_nothing_else(self, bert: Path, tmp_path: Path) -> None:
        (bert / "pytorch_model.bin").write_bytes(b"pickle")
        copy_folder(bert, tmp_path / "copy", allowed=[tmp_path])
        names = {path.name for path in (tmp_path / "copy").iterdir()}
        assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

    def test_folder_outside_the_allowed_ones(self, bert: Path, tmp_path: Path) -> None:
        with pytest.raises(PreparationFailed) as caught:
            copy_folder(bert, tmp_path / "copy", allowed=[tmp_path / "teachers"])
        assert caught.value.code == "teacher_folder_refused"
        assert "STILLHOUSE_TEACHER_DIRS" in caught.value.message

    def test_link_that_leads_outside(self, bert: Path, tmp_path: Path) -> None:
        secret = tmp_path / "secret.json"
        secret.write_text("{}")
        allowed = tmp_path / "allowed"
        shutil.copytree(bert, allowed / "model")
        (allowed / "model" / "config.json").unlink()
        (allowed / "model" / "config.json").symlink_to(secret)
        with pytest.raises(PreparationFailed) as caught:
            copy_folder(allowed / "model", tmp_path / "copy", allowed=[allowed])
        assert caught.value.code == "teacher_folder_refused"
        assert not (tmp_path / "copy").exists()

    def test_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(PreparationFailed) as caught:
            copy_folder(tmp_path / "nowhere", tmp_path / "copy", allowed=[tmp_path])
        assert caught.value.code == "teacher_files_missing"
