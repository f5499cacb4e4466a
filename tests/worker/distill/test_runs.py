"""Whole runs of the engine on tiny models: what every method has in common, and what comes out."""

import itertools
import json
import math
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from tests.fixtures.tiny_models import FAMILIES, SPECIAL_TOKENS, write_classifier, write_tokenizer
from tests.worker.distill.forked_engine import Instant, fork_engine
from tests.worker.distill.tiny_runs import LABELS, METHODS, VOCABULARY, events_of, make_run
from worker.distill import exit_codes
from worker.distill.cache_keys import TEACHER_OUTPUTS, teacher_outputs_key
from worker.distill.config import JobConfig
from worker.distill.data import load_dataset
from worker.distill.errors import InvalidJob, NanLoss, TeacherLabelMismatch, TeacherNotFinite
from worker.distill.evaluate import measure_quality
from worker.distill.methods.nd import NormAndDirection
from worker.distill.progress import forward_work, training_work
from worker.distill.rows import Predictions
from worker.distill.teacher import load_tokenizer

# With test_resume: what these runs begin with, the map above all, is made once in a process.
pytestmark = pytest.mark.xdist_group("engine_runs")

Runner = Callable[[Path], Path]
MASK = SPECIAL_TOKENS.index("[MASK]")
ASKED = {"plain": "kd", "both": "lelp", "later": "lelp"}


def manifest_of(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text())


def weights_of(artifact: Path) -> bytes:
    return (artifact / "model.safetensors").read_bytes()


def reloaded(artifact: Path) -> tuple[Any, Any]:
    """Its model and its tokenizer, by plain transformers."""
    return AutoModelForSequenceClassification.from_pretrained(artifact), AutoTokenizer.from_pretrained(artifact)


def check_measured(folder: Path) -> None:
    """Hold what the run's artifact says to the test rows, as its docs have it used, against what the run measured."""
    model, tokenizer = reloaded(folder / "artifact")
    rows = parquet.read_table(folder / "dataset/test.parquet").to_pydict()
    texts = [rows[name] for name in ("text", "text_pair") if name in rows]
    with torch.inference_mode():
        logits = model(**tokenizer(*texts, truncation=True, padding=True, return_tensors="pt")).logits
    measured = json.loads((folder / "artifact/metrics.json").read_text())["student"]["test"]
    assert measure_quality(logits.numpy(), np.array(rows["label"])).as_dict() == pytest.approx(measured, rel=1e-4)


class TestBudget:
    @pytest.mark.parametrize("method", ["sage", "random_anchors", "oversample"])
    def test_every_method_presents_as_many_rows_as_plain_distillation(
        self, method: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        baselines = [METHODS["kd"], METHODS["fine_tune"]]
        artifact = run_engine(make_run(tmp_path / "run", method, baselines=baselines, training__epochs=2.5))
        arms = manifest_of(artifact)["arms"]
        presented = {name: arm["rows_presented"] for name, arm in arms.items()}
        assert presented == {"student": 375, "baseline.kd": 375, "baseline.fine_tune": 375}
        added = [record["extra_rows"] for record in arms["student"]["rounds"] if "extra_rows" in record]
        # Two rounds share what the warm-up epoch leaves; a ratio of 0.5 makes a third of each round added rows.
        assert sum(added) == pytest.approx((375 - 150) / 3, abs=2)

    def test_students_of_one_shape_are_said_to_be_as_quick_as_each_other(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a method is taken for that of the slower student, which was timed at a bad moment."""
        run_engine(make_run(tmp_path / "run", "kd", baselines=[METHODS["fine_tune"]], training__epochs=1.0))
        [end] = events_of(tmp_path / "run", "succeeded")
        teacher, student = (end["result"][model]["latency_ms"] for model in ("teacher", "student"))
        assert student == end["result"]["baselines"]["fine_tune"]["latency_ms"]
        for latency in (teacher, student):
            assert 0 < latency["p50"] <= latency["p95"]

    def test_sage_without_synthetic_rows_is_plain_distillation_bit_for_bit(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        plain = run_engine(make_run(tmp_path / "kd", "kd"))
        without = run_engine(make_run(tmp_path / "sage", "sage", method__synthetic_ratio=0.0))
        assert weights_of(without) == weights_of(plain)


class TestUnlabelled:
    def test_an_epoch_is_of_all_rows_for_who_hears_the_teacher_and_of_the_labelled_ones_for_who_does_not(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        baselines = [METHODS["fine_tune"], METHODS["pruned"]]
        folder = make_run(tmp_path / "run", "sage", unlabelled_rows=90, baselines=baselines, training__epochs=2.0)
        arms = manifest_of(run_engine(folder))["arms"]
        presented = {name: arm["rows_presented"] for name, arm in arms.items()}
        assert presented == {"student": 480, "baseline.fine_tune": 300, "baseline.pruned": 480}
        # Half of each class, and half of the rows without one.
        assert {record["kept_rows"] for record in arms["baseline.pruned"]["rounds"]} == {120.0}

    def test_the_progress_knows_whose_epochs_are_shorter(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "kd", unlabelled_rows=90, baselines=[METHODS["fine_tune"]])
        run_engine(folder)
        after = itertools.pairwise(events_of(folder, "phase", "progress"))
        share = next(
            report["progress"] for phase, report in after if phase["type"] == "phase" and phase["phase"] == "baseline"
        )
        layers = AutoConfig.from_pretrained(folder / "teacher").num_hidden_layers
        done = forward_work(layers, 240 + 60 + 60) + training_work(2, 3 * 240)
        assert share == pytest.approx(done / (done + training_work(2, 3 * 150)))

    def test_a_row_without_a_label_is_of_the_class_that_the_teacher_gives_it(
        self, tmp_path: Path, run_engine: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: all that nobody labelled is taken for the last class."""
        begun = []
        begin = NormAndDirection.begin

        def note(self: NormAndDirection, teacher: Predictions, labels: np.ndarray) -> None:
            begun.append((teacher.logits, labels))
            begin(self, teacher, labels)

        monkeypatch.setattr(NormAndDirection, "begin", note)
        folder = make_run(tmp_path / "run", "kd", tuned=True, unlabelled_rows=90, combine=[METHODS["nd"]])
        run_engine(folder)
        [(logits, labels)] = begun
        written = parquet.read_table(folder / "dataset/train.parquet").column("label").to_pylist()
        assert labels[:150].tolist() == written
        assert labels[150:].tolist() == logits[150:].argmax(1).tolist()

    def test_who_learns_from_labels_alone_ends_to_the_bit_as_without_them(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a label that nobody gave is learnt, or the fine-tuned control is another than it was."""
        plain = run_engine(make_run(tmp_path / "plain", "fine_tune", tuned=True))
        beside = run_engine(make_run(tmp_path / "beside", "fine_tune", tuned=True, unlabelled_rows=90))
        assert weights_of(beside) == weights_of(plain)
        # The teacher too, which is tuned: it says the same of the rows that are held out.
        measured = [json.loads((each / "metrics.json").read_text())["teacher"] for each in (plain, beside)]
        assert measured[0]["test"] == measured[1]["test"]

    @pytest.mark.parametrize("targeting", ["rows", "region"])
    def test_what_nobody_labelled_teaches_the_student_as_if_all_were_labelled(
        self, targeting: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Without the label's part of the loss a label is of no use: which rows have one is all the same."""
        whole = {"method__alpha": 1.0, "method__targeting": targeting}
        folder = make_run(tmp_path / "labelled", "sage", train_rows=150, **whole)
        parted = make_run(tmp_path / "parted", "sage", train_rows=100, unlabelled_rows=50, **whole)
        rows = parquet.read_table(folder / "dataset/train.parquet")
        parquet.write_table(rows.slice(0, 100), parted / "dataset/train.parquet")
        parquet.write_table(rows.slice(100).select(["text"]), parted / "dataset/unlabelled.parquet")
        assert weights_of(run_engine(parted)) == weights_of(run_engine(folder))

    @pytest.mark.parametrize(
        ("method", "beside"),
        [
            ("kd", ("llkd", "sinkd")),
            ("pld", ("nd",)),
            ("lelp", ()),
            ("taid", ("rad", "oversample")),
            ("bd_kd", ("opdf",)),
        ],
    )
    def test_every_method_takes_them(
        self, method: str, beside: tuple[str, ...], tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a job fails over a class that is none, after its teacher was tuned for hours."""
        combine = [METHODS[name] for name in beside]
        folder = make_run(tmp_path / "run", method, unlabelled_rows=90, combine=combine, training__epochs=2.0)
        assert manifest_of(run_engine(folder))["arms"]["student"]["rows_presented"] == 480


class TestEarlyStopping:
    def test_sage_stops_when_the_student_has_nothing_left_to_learn(self, tmp_path: Path, run_engine: Runner) -> None:
        stubborn = {"method__rounds": 8, "method__early_stopping": True, "training__learning_rate": 1e-9}
        folder = make_run(tmp_path / "run", "sage", training__epochs=6.0, **stubborn)
        arms = manifest_of(run_engine(folder))["arms"]
        assert len(arms["student"]["rounds"]) < 9
        assert events_of(folder, "round")[-1]["stopped_early"] is True


class TestArtifact:
    @pytest.mark.parametrize("has_pairs", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_loads_with_plain_transformers_and_answers_as_measured(
        self, family: str, has_pairs: bool, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a second text that the reloaded tokenizer numbers otherwise is read otherwise, or cannot be read."""
        folder = make_run(tmp_path / "run", "kd", family=family, has_pairs=has_pairs, training__epochs=8.0)
        model, tokenizer = reloaded(run_engine(folder))
        assert type(model).__module__.startswith("transformers.")
        check_measured(folder)
        answer = pipeline("text-classification", model=model, tokenizer=tokenizer)("the old cat")[0]
        assert answer["label"] in LABELS

    @pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend"])
    def test_a_tokenizer_of_no_class_of_its_own_answers_as_measured_too(
        self, named: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: it forgets that BERT is told which of two texts a token is of; and transformers before 5 do not know
        the newer of its names."""
        folder = make_run(tmp_path / "run", "kd", has_pairs=True, training__epochs=8.0)
        settings = folder / "teacher/tokenizer_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": named}))
        artifact = run_engine(folder)
        written = json.loads((artifact / "tokenizer_config.json").read_text())
        assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
        _, tokenizer = reloaded(artifact)
        assert type(tokenizer) is PreTrainedTokenizerFast
        assert "token_type_ids" in tokenizer("the cat", "a dog")
        check_measured(folder)

    @pytest.mark.parametrize("word_vectors", ["trained", "frozen"])
    @pytest.mark.parametrize("method", ["kd", "sage"])
    def test_the_student_has_the_layers_and_the_word_vectors_asked_for(
        self, method: str, word_vectors: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        artifact = run_engine(make_run(tmp_path / "run", method, student__word_vectors=word_vectors))
        student = load_file(artifact / "model.safetensors")
        teacher = load_file(tmp_path / "run/teacher/model.safetensors")
        assert {name.split(".")[3] for name in student if ".encoder.layer." in name} == {"0", "1"}
        table = "bert.embeddings.word_embeddings.weight"
        moved = set((student[table] != teacher[table]).any(1).nonzero().flatten().tolist())
        tokenizer = AutoTokenizer.from_pretrained(artifact)
        rows = parquet.read_table(tmp_path / "run/dataset/train.parquet").to_pydict()
        occurring = {token for ids in tokenizer(rows["text"])["input_ids"] for token in ids}
        assert moved == (occurring if word_vectors == "trained" else set())

    def test_a_tuned_teacher_has_word_vectors_of_its_own(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: a cache that forgets them, so that a second job's teacher is half the first one's."""
        artifact = run_engine(make_run(tmp_path / "run", "kd", tuned=True, student__word_vectors="frozen"))
        base = load_file(tmp_path / "run/teacher/model.safetensors")
        # A student of frozen word vectors has those of its teacher, as tuned.
        student = load_file(artifact / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
        (name,) = (name for name in base if name.endswith("word_embeddings.weight"))
        (cached,) = (tmp_path / "run/cache/tuned_teachers").glob("*/trained-*.safetensors")
        tuned = load_file(cached)
        assert torch.equal(student[tuned["word_rows"]], tuned["word_vectors"])
        assert not torch.equal(student, base[name])

    def test_equal_runs_have_equal_content_and_another_seed_another(self, tmp_path: Path, run_engine: Runner) -> None:
        first, second = (manifest_of(run_engine(make_run(tmp_path / name, "sage"))) for name in ("a", "b"))
        other = manifest_of(run_engine(make_run(tmp_path / "c", "sage", training__seed=12)))
        assert first["content_sha256"] == second["content_sha256"]
        assert first["content_sha256"] != other["content_sha256"]

    def test_it_says_what_each_part_of_the_method_cost(self, tmp_path: Path, run_engine: Runner) -> None:
        artifact = run_engine(make_run(tmp_path / "run", "sage"))
        result = json.loads((artifact / "metrics.json").read_text())
        parts = result["seconds_by_part"]
        assert {"loading", "teacher_outputs", "training", "validating", "evaluating"} < set(parts)
        assert {"scoring", "synthesis", "labelling"} < set(parts)
        assert 0 < sum(parts.values()) <= result["seconds"] + 0.2

    def test_the_new_rows_that_are_kept_are_those_that_the_student_finds_hardest(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a choice by what the teacher says, on which it differs from itself by nothing, or by the wrong end."""
        folder = make_run(tmp_path / "run", "sage", method__candidates=4.0)
        run_engine(folder)
        rounds = [event for event in events_of(folder, "round") if event["arm"] == "student"]
        chosen = [event for event in rounds if event.get("extra_rows")]
        assert len(chosen) == 2, "both rounds after the warm-up"
        for event in chosen:
            assert event["kept_loss"] > event["candidate_loss"] > 0

    def test_the_manifest_names_every_file_with_its_hash(self, tmp_path: Path, run_engine: Runner) -> None:
        import hashlib

        artifact = run_engine(make_run(tmp_path / "run", "fine_tune"))
        listed = {entry["path"]: entry for entry in manifest_of(artifact)["files"]}
        assert set(listed) == {file.name for file in artifact.iterdir()} - {"manifest.json"}
        for name, entry in listed.items():
            content = (artifact / name).read_bytes()
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
            assert entry["size_bytes"] == len(content)

    def test_the_archive_holds_the_folder_without_times_or_owners(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "fine_tune")
        artifact = run_engine(folder)
        with tarfile.open(folder / "artifact.tar.gz") as archive:
            entries = archive.getmembers()
        assert [entry.name for entry in entries] == sorted(f"student/{file.name}" for file in artifact.iterdir())
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, 0, "")}

    def test_the_tokenizer_cuts_where_the_student_was_measured(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: a text as long as none in training, or longer than the model has positions for, goes through whole."""
        folder = make_run(tmp_path / "run", "fine_tune")
        settings = folder / "teacher/tokenizer_config.json"
        unlimited = json.loads(settings.read_text())
        del unlimited["model_max_length"]
        settings.write_text(json.dumps(unlimited))
        tokenizer = AutoTokenizer.from_pretrained(run_engine(folder))
        assert tokenizer.model_max_length == 24
        assert len(tokenizer("the cat " * 50, truncation=True)["input_ids"]) == 24

    def test_what_the_card_shows_runs(
        self, tmp_path: Path, run_engine: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_engine(make_run(tmp_path / "run", "fine_tune")).rename(tmp_path / "student")
        monkeypatch.chdir(tmp_path)
        card = Path("student/README.md").read_text()
        assert f"transformers {version('transformers')}" in card
        blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            names: dict[str, Any] = {}
            exec(block.replace('"a text"', repr("the cat " * 50)), names)
        assert names["label"] in LABELS

    def test_the_card_says_how_far_the_student_is_from_each_model(self, tmp_path: Path, run_engine: Runner) -> None:
        artifact = run_engine(make_run(tmp_path / "run", "kd", baselines=[METHODS["fine_tune"]]))
        ahead_of = json.loads((artifact / "metrics.json").read_text())["student"]["ahead_of"]
        lines = [line for line in (artifact / "README.md").read_text().splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        heading, _, teacher, student, baseline = ([cell.strip() for cell in line.split("|")] for line in lines)
        column = heading.index("student less it")
        assert student[column] == ""
        for name, row in (("teacher", teacher), ("fine_tune", baseline)):
            assert name in row[1]
            assert row[column].startswith(f"{ahead_of[name]['accuracy']:+.4f} (")

    def test_pairs_of_texts_are_distilled_too(self, tmp_path: Path, run_engine: Runner) -> None:
        artifact = run_engine(make_run(tmp_path / "run", "sage", has_pairs=True))
        tokenizer = AutoTokenizer.from_pretrained(artifact)
        model = AutoModelForSequenceClassification.from_pretrained(artifact)
        encoded = tokenizer("the cat", "a dog", return_tensors="pt")
        assert model(**encoded).logits.shape == (1, len(LABELS))


class TestLearning:
    def test_the_training_loss_falls(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "fine_tune", training__epochs=24.0)
        run_engine(folder)
        losses = [e["value"] for e in events_of(folder, "metric") if e["series"] == "student/train_loss"]
        assert losses[-1] < 0.7 * losses[0]

    def test_progress_rises_to_the_end(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "sage", tuned=True, baselines=[METHODS["kd"]])
        run_engine(folder)
        shares = [event["progress"] for event in events_of(folder, "progress")]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)


class TestCache:
    def test_a_second_job_on_the_same_pair_neither_tunes_nor_asks_the_teacher_again(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        first = make_run(tmp_path / "first", "sage", tuned=True)
        content = weights_of(run_engine(first))
        second = make_run(tmp_path / "second", "sage", tuned=True)
        (first / "cache").rename(second / "cache")
        assert weights_of(run_engine(second)) == content
        phases = {event["phase"] for event in events_of(second, "phase")}
        assert phases.isdisjoint({"teacher_tuning", "teacher_outputs", "projection"})

    def test_what_was_made_of_other_tokens_is_not_taken(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: after an upgrade of the tokenizers library a student learns what its teacher said of other words."""
        first = make_run(tmp_path / "first", "lelp", tuned=True)
        run_engine(first)
        second = make_run(tmp_path / "second", "lelp", tuned=True)
        shutil.copytree(first / "cache", second / "cache")
        write_tokenizer(second / "teacher", VOCABULARY[::-1])
        run_engine(second)
        assert {"teacher_tuning", "teacher_outputs"} <= {event["phase"] for event in events_of(second, "phase")}
        for kind in ("tuned_teachers", "teacher_outputs", "teacher_features"):
            (entry,) = (second / "cache" / kind).iterdir()
            assert len(list(entry.iterdir())) == 2

    def test_a_second_job_in_bf16_labels_with_the_tuned_teacher_too(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: with nothing to ask the teacher for, synthetic rows get the labels of the teacher before its tuning."""
        changes: dict[str, Any] = {"tuned": True, "training__precision": "bf16"}
        first = make_run(tmp_path / "first", "sage", **changes)
        second = make_run(tmp_path / "second", "sage", **changes)
        contents = [manifest_of(run_engine(first))["content_sha256"]]
        shutil.copytree(first / "cache", second / "cache")
        contents.append(manifest_of(run_engine(second))["content_sha256"])
        assert contents[0] == contents[1]

    def test_features_and_logits_are_the_same_from_one_pass_and_from_two(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a teacher that is asked twice, or that says something else to a job which needs more of it."""
        plain, both, later = (make_run(tmp_path / name, method) for name, method in ASKED.items())
        for folder in (plain, both):
            run_engine(folder)
        shutil.copytree(plain / "cache", later / "cache")
        run_engine(later)
        assert said_by_the_teacher(plain)["logits"] == said_by_the_teacher(both)["logits"]
        assert said_by_the_teacher(both) == said_by_the_teacher(later)
        assert weights_of(both / "artifact") == weights_of(later / "artifact")
        for folder in (plain, both, later):
            phases = [event["phase"] for event in events_of(folder, "phase")]
            assert phases.count("teacher_outputs") == 1
            # The pass is part of what the run has done when its training begins.
            at_training = next(event for event in events_of(folder, "progress") if event["phase"] == "training")
            assert at_training["progress"] > 0

    def test_wanted_names_what_a_run_leaves_behind(self, tmp_path: Path, run_engine: Runner) -> None:
        from worker.distill.cache_keys import wanted

        folder = make_run(tmp_path / "run", "sage", tuned=True)
        run_engine(folder)
        left = {(entry.parent.name, entry.name) for entry in (folder / "cache").glob("*/*")}
        assert left >= set(wanted(json.loads((folder / "job.json").read_text())))


class TestLabels:
    def test_a_teacher_with_the_same_labels_in_another_order_is_rearranged(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a teacher that is right under its own numbering would teach nonsense under ours."""
        straight = run_engine(make_run(tmp_path / "straight", "kd"))
        folder = make_run(tmp_path / "turned", "kd")
        turned = write_classifier(folder / "turned", VOCABULARY, LABELS)
        _turn_labels(turned)
        job = json.loads((folder / "job.json").read_text())
        job["teacher"]["path"] = "turned"
        (folder / "job.json").write_text(json.dumps(job))
        assert weights_of(run_engine(folder)) == weights_of(straight)

    def test_an_unnamed_teacher_that_seems_to_have_another_order_is_doubted(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: the job succeeds, and its student is wrong wherever its teacher was right."""
        able = run_engine(make_run(tmp_path / "able", "fine_tune", training__epochs=24.0))
        warnings = {}
        for name, order in {"straight": [0, 1, 2], "turned": [1, 2, 0]}.items():
            folder = make_run(tmp_path / name, "kd", training__epochs=1.0)
            shutil.rmtree(folder / "teacher")
            shutil.copytree(able, folder / "teacher")
            _take_names(folder / "teacher", order)
            run_engine(folder)
            warnings[name] = events_of(folder, "warning")
        assert warnings["straight"] == []
        (warning,) = warnings["turned"]
        assert warning["code"] == "teacher_order_doubtful"
        assert "in their order ('animal', 'colour', 'fruit')" in warning["message"]
        assert "with output 0 as 'colour'; output 1 as 'fruit'; output 2 as 'animal'." in warning["message"]
        # Said once, not again by whoever takes the run up.
        run_engine(tmp_path / "turned")
        assert events_of(tmp_path / "turned", "warning") == [warning]
        # By the attempt that has heard all that the teacher says.
        stopped = make_run(tmp_path / "stopped", "kd", training__epochs=1.0)
        shutil.rmtree(stopped / "teacher")
        shutil.copytree(tmp_path / "turned/teacher", stopped / "teacher")
        engine = fork_engine(stopped, Instant("worker.distill.teacher_outputs:predict", 1, "before", signal.SIGTERM))
        engine.join()
        assert engine.exitcode == exit_codes.STOPPED
        assert events_of(stopped, "checkpoint")
        run_engine(stopped)
        assert [event["code"] for event in events_of(stopped, "warning")] == ["teacher_order_doubtful"]

    def test_a_teacher_of_other_labels_is_refused_by_name(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "kd")
        write_classifier(folder / "teacher", VOCABULARY, ["ham", "spam"])
        with pytest.raises(TeacherLabelMismatch, match=r"'ham', 'spam'.*add teacher_tuning"):
            run_engine(folder)

    def test_an_encoder_that_was_never_tuned_is_refused(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "kd", tuned=True, teacher_tuning=None)
        with pytest.raises((TeacherLabelMismatch, InvalidJob), match="teacher_tuning"):
            run_engine(folder)


class TestTextsCut:
    def test_is_told_where_many_fill_the_length(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: the student sees a tenth of each review, and so does the teacher: all figures of the job look well."""
        folder = make_run(tmp_path / "run", "kd", training__epochs=1.0)
        length = json.loads((folder / "job.json").read_text())["training"]["max_length"]
        change_texts(folder / "dataset/test.parquet", dict.fromkeys(range(3), "a very old cat " * length))
        warning = told_once(folder, run_engine)
        assert warning["code"] == "texts_cut"
        assert warning["message"].startswith(
            f"0 of 150 train rows, 0 of 60 validation rows, 3 of 60 test rows fill the {length} tokens of "
            "training.max_length"
        )

    def test_is_not_told_of_a_few(self, tmp_path: Path, run_engine: Runner) -> None:
        folder = make_run(tmp_path / "run", "kd", training__epochs=1.0)
        change_texts(folder / "dataset/test.parquet", {0: "a very old cat " * 32})
        run_engine(folder)
        assert events_of(folder, "warning") == []


class TestPaddingInTexts:
    @pytest.mark.parametrize("family", ["roberta", "mpnet"])
    def test_is_told_once_and_fails_no_job(self, family: str, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: a student that is worth less than was measured, and nobody knows; or a job that one stray row fails,
        with the advice to use another teacher."""
        folder = make_run(tmp_path / "run", "kd", family=family, training__epochs=1.0)
        for split, rows in {"train": [7], "test": [3, 59]}.items():
            change_texts(folder / f"dataset/{split}.parquet", dict.fromkeys(rows, "the <pad> cat" + " and a dog" * 6))
        warning = told_once(folder, run_engine)
        assert warning["code"] == "padding_in_texts"
        assert warning["message"].startswith(
            f"1 of 150 train rows, 2 of 60 test rows contain '<pad>', by which a {family} counts positions; the first "
            "is row 7 of train "
        )

    @pytest.mark.parametrize("padding", [None, -1])
    def test_a_teacher_that_does_not_count_by_it_need_not_name_it(
        self, padding: int | None, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a teacher that transformers loads, and every job on it ends with an internal error."""
        folder = make_run(tmp_path / "run", "kd", training__epochs=1.0)
        config = json.loads((folder / "teacher/config.json").read_text())
        (folder / "teacher/config.json").write_text(json.dumps(config | {"pad_token_id": padding}))
        run_engine(folder)
        assert events_of(folder, "succeeded")

    def test_is_a_word_as_any_other_where_positions_do_not_count_from_it(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        folder = make_run(tmp_path / "run", "kd", training__epochs=1.0)
        change_texts(folder / "dataset/train.parquet", {7: "the [PAD] cat"})
        run_engine(folder)
        assert events_of(folder, "warning") == []


class TestBadJobs:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"student__layers": 9}, "student.layers is 9.*choose 1 to 4"),
            ({"training__max_length": 64}, "max_length is 64.*32 tokens"),
            ({"method": {"type": "sagee"}}, "'sagee' is not known; known are sage"),
            ({"method": {"type": "kd", "temperature": 2.0, "alpha": 0.9, "beta": 1}}, "unknown beta"),
            ({"method": {"type": "kd", "temperature": 2.0}}, "lacks alpha"),
            ({"training__epochs": "3"}, "training.epochs is '3'"),
            ({"training__precision": "fp8"}, "training.precision is 'fp8'.*bf16"),
            ({"format_version": 2}, "format_version 2"),
            ({"colour": "red"}, "unknown colour"),
        ],
    )
    def test_is_refused_with_the_value_and_the_way_out(
        self, changes: dict[str, Any], message: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        with pytest.raises(InvalidJob, match=message):
            run_engine(make_run(tmp_path / "run", "kd", **changes))

    def test_pairs_with_a_teacher_of_one_segment_are_refused(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: an index out of range, which nobody who posted the job can read anything from."""
        folder = make_run(tmp_path / "run", "kd", has_pairs=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
        config = model.config
        config.type_vocab_size = 1
        type(model)(config).save_pretrained(folder / "teacher")
        with pytest.raises(InvalidJob, match=r"are of 2 segments, and the teacher tells 1 apart .*a row is one text"):
            run_engine(folder)

    def test_a_teacher_that_is_not_finite_on_one_row_is_refused_by_that_row(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: an internal error of numpy's, or a student that is taught what is no number."""
        folder = make_run(tmp_path / "run", "kd")
        model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
        with torch.no_grad():
            model.get_input_embeddings().weight[MASK] = math.nan
        model.save_pretrained(folder / "teacher")
        change_texts(folder / "dataset/validation.parquet", {7: "the [MASK] cat"})
        with pytest.raises(TeacherNotFinite, match=r"1 of 60 validation rows .*; the first is row 7 "):
            run_engine(folder)

    def test_answers_of_a_teacher_that_were_kept_and_are_not_finite_are_refused_too(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a cache that an older release filled teaches what is no number."""
        folder = make_run(tmp_path / "run", "kd")
        key = teacher_outputs_key(JobConfig.load(folder / "job.json"))
        entry = folder / "cache" / TEACHER_OUTPUTS / key
        entry.mkdir(parents=True)
        logits = {name: torch.zeros(rows, 3) for name, rows in (("train", 150), ("validation", 60), ("test", 60))}
        logits["train"][7, 1] = math.nan
        dataset = load_dataset(folder / "dataset", load_tokenizer(folder / "teacher"), max_length=24)
        save_file(logits, entry / f"logits-fp32-{dataset.tokens_sha256[:16]}.safetensors")
        with pytest.raises(TeacherNotFinite, match=r"1 of 150 train rows .*; the first is row 7 "):
            run_engine(folder)

    def test_a_student_that_its_last_step_broke_ends_the_run(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: no loss comes after that step to show it, and the validation fails with an internal error."""
        one_step = {"training__epochs": 1.0, "training__batch_size": 150}
        folder = make_run(tmp_path / "run", "kd", training__learning_rate=math.inf, **one_step)
        with pytest.raises(NanLoss, match=r"validation logits of student .* step 1 of 1.*lower the learning rate"):
            run_engine(folder)

    def test_a_loss_that_is_not_a_number_ends_the_run_and_no_checkpoint_holds_it(
        self, tmp_path: Path, run_engine: Runner
    ) -> None:
        folder = make_run(tmp_path / "run", "kd", training__learning_rate=math.inf, checkpoint_seconds=0.0)
        with pytest.raises(NanLoss, match="lower the learning rate"):
            run_engine(folder)
        for weights in (folder / "checkpoints").glob("*/model.safetensors"):
            assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())


def told_once(folder: Path, run_engine: Runner) -> dict[str, Any]:
    """The one warning of a run, which whoever takes it up again does not say again."""
    run_engine(folder)
    (warning,) = events_of(folder, "warning")
    run_engine(folder)
    assert events_of(folder, "warning") == [warning]
    return warning


def change_texts(file: Path, texts: dict[int, str]) -> None:
    """Put these texts, by row, into a prepared split."""
    columns = parquet.read_table(file).to_pydict()
    for row, text in texts.items():
        columns["text"][row] = text
    parquet.write_table(pa.table(columns | {"label": pa.array(columns["label"], pa.int32())}), file)


def said_by_the_teacher(folder: Path) -> dict[str, bytes]:
    """What the run's cache holds of it, by the part before the precision."""
    files = [*(folder / "cache/teacher_outputs").glob("*/*"), *(folder / "cache/teacher_features").glob("*/*")]
    return {file.name.partition("-")[0]: file.read_bytes() for file in files}


def _turn_labels(folder: Path) -> None:
    """Reverse the classes of a saved classifier: its head and its label names together."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0).clone())
        model.classifier.bias.copy_(model.classifier.bias.flip(0).clone())
    model.config.id2label = dict(enumerate(reversed(LABELS)))
    model.config.label2id = {label: index for index, label in enumerate(reversed(LABELS))}
    model.save_pretrained(folder)


def _take_names(folder: Path, order: list[int]) -> None:
    """Have a saved classifier's outputs in that order, under the names that transformers gives where nobody does."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    model.config.id2label = {index: f"LABEL_{index}" for index in range(len(order))}
    model.config.label2id = {f"LABEL_{index}": index for index in range(len(order))}
    model.save_pretrained(folder)
