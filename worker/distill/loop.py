"""A distillation from beginning to end. Read this first.

    load -> tune the teacher (if asked) -> its outputs, once -> train the student and each baseline
         -> measure -> export

Each training is an "arm" (train.py); where one stands is in the checkpoints, so that a run killed at
any moment and resumed ends as one never killed. What is computed once and outlives the job (the tuned
teacher, its outputs, the projection) lies in the cache under the hash of its inputs.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from worker.distill import cache as caches
from worker.distill.batches import Predictions
from worker.distill.cache import Cache
from worker.distill.checkpoint import ArmState, RunState, load_latest, save_checkpoint
from worker.distill.config import JobConfig, MethodConfig, TeacherTuningConfig, read_job
from worker.distill.coordinates import Coordinates
from worker.distill.data import Dataset, load_dataset
from worker.distill.device import choose_compute, environment, hardware
from worker.distill.errors import Stopped, TeacherNotFinite
from worker.distill.evaluate import measure_quality, predict, rows_not_finite
from worker.distill.events import EventLog
from worker.distill.export import pack, sha256_of, write_artifact
from worker.distill.families import count_layers, last_layer, word_table
from worker.distill.guidance import Guidance
from worker.distill.methods.registry import build_recipe, revisions
from worker.distill.network import Network
from worker.distill.networks import build_network, put_weights
from worker.distill.objectives import CrossEntropy
from worker.distill.progress import Progress, forward_work, training_work
from worker.distill.results import Measurer
from worker.distill.stopwatch import Stopwatch
from worker.distill.strategies.real_rows import RealRows
from worker.distill.student import TeacherLayersStudent
from worker.distill.teacher import check_length, load_teacher, load_tokenizer
from worker.distill.train import Arm, ArmContext, ArmResult, ArmTraining, Schedule
from worker.distill.vectors import check_vector_interface
from worker.distill.weights import load_weights

TUNING = "teacher_tuning"
STUDENT = "student"
_TUNED_TEACHER = "tuned_teacher"  # as an input that checkpoints record
# A kind of cache entry that stays with the run, and is not announced: few jobs ask for them, and they are large.
_TEACHER_FEATURES = "teacher_features"


def distil(folder: Path, events: EventLog, stop_requested: Callable[[], bool]) -> None:
    """Run the job in `folder` to its end, or raise Stopped soon after `stop_requested` says so."""
    Run(folder, events, stop_requested).execute()


class Run:
    def __init__(self, folder: Path, events: EventLog, stop_requested: Callable[[], bool]) -> None:
        self.folder = folder
        self.events = events
        self.stop_requested = stop_requested
        self.raw_job: dict[str, Any] = {}
        self.progress = Progress(events)
        self.cache = Cache(folder / "cache")
        self.started = time.monotonic()
        self.watch = Stopwatch()
        self.last_checkpoint = time.monotonic()

    def execute(self) -> None:
        self.progress.enter("preparing")
        with self.watch.on("loading"):
            self._load()
        self._plan_progress()
        unfinished = [build_recipe(methods) for name, methods in self._arms() if name not in self.finished]
        self.needs_features = any(recipe.objective.needs_features for recipe in unfinished)
        if any(recipe.strategy.needs_projection for recipe in unfinished):
            shifts = any(recipe.strategy.needs_vectors for recipe in unfinished)
            self.guidance.begin(self.table, self.folder, shifts=shifts)
        self._tune_teacher()
        with self.watch.on("teacher_outputs"):
            self.teacher_logits, self.teacher_features = self._teacher_outputs()
        quality = measure_quality(self.teacher_logits["validation"], self.dataset.splits["validation"].labels)
        self.guidance.teacher_error = 1 - quality.accuracy
        self._announce_resume()
        for name, methods in self._arms():
            self._train_arm(name, methods, "training" if name == STUDENT else "baseline")
        with self.watch.on("evaluating"):
            result = self._measure()
        # Of this attempt alone: what an earlier one spent went with it.
        result["seconds"] = round(time.monotonic() - self.started, 1)
        result["seconds_by_part"] = {part: round(seconds, 2) for part, seconds in self.watch.seconds.items()}
        self._export(result)
        self.events.emit("succeeded", result=result)

    # -- loading ------------------------------------------------------------------------------------

    def _load(self) -> None:
        self.raw_job = read_job(self.folder / "job.json")
        self.job = JobConfig.parse(self.raw_job)
        resumed = self.resumed = load_latest(self.folder / "checkpoints")
        threads = resumed.environment["threads"] if resumed else self.job.threads
        self.compute = choose_compute(self.job.training, threads)
        self.environment = environment(self.compute)
        self.finished: dict[str, dict[str, Any]] = resumed.finished if resumed else {}
        self.finished_weights = resumed.finished_weights if resumed else {}
        self.steps_before = resumed.steps_before if resumed else 0
        self.last_number = resumed.number if resumed else -1
        self.resumed_arms = resumed.begun() if resumed else {}
        self.inputs = {"teacher": self.job.teacher.sha256, "dataset": self.job.dataset.sha256}
        self.inexact_by: list[str] = []
        # A bad parameter is found before the hours, not after.
        recipes = [build_recipe(methods) for _, methods in self._arms()]
        teacher_folder = self.folder / self.job.teacher.path
        self.tokenizer = load_tokenizer(teacher_folder)
        self.dataset: Dataset = load_dataset(
            self.folder / self.job.dataset.path, self.tokenizer, self.job.training.max_length
        )
        tuning = self.job.teacher_tuning
        teacher = load_teacher(
            teacher_folder,
            self.dataset.labels,
            self.compute,
            may_grow_head=tuning is not None,
            seed=tuning.seed if tuning else self.job.training.seed,
        )
        self.table = word_table(teacher)
        check_length(teacher.config, self.job.training.max_length)
        for recipe in recipes:
            recipe.objective.check(len(self.dataset.labels), last_layer(teacher).in_features)
            if recipe.parameterisation is not None:
                recipe.parameterisation().check(teacher)
        check_vector_interface(teacher, self.dataset.train, self.compute)
        self.teacher = build_network(teacher, self.compute)
        self.environment["arithmetic"] = self.teacher.arithmetic
        if revised := revisions(method.type for _, methods in self._arms() for method in methods):
            self.environment["methods"] = revised
        self.parameterisation = TeacherLayersStudent(self.job.student)
        self.teacher_layers = count_layers(teacher)
        key = caches.projection_key(self.job)
        self.coordinates = Coordinates(
            self.folder, self.cache, key, store=self._store, resumed=resumed.coordinates if resumed else None
        )
        self.guidance = Guidance(
            split=self.dataset.train,
            teacher=self.teacher,
            classes=len(self.dataset.labels),
            coordinates=self.coordinates,
            compute=self.compute,
            watch=self.watch,
            progress=self.progress,
            check_stop=self._check_stop,
        )

    def _announce_resume(self) -> None:
        """Say, once it is known with what this run goes on, whether it will end with the same bits."""
        resumed, self.resumed = self.resumed, None
        if resumed is None:
            return
        differs = [name for name, value in self.environment.items() if resumed.environment.get(name) != value]
        differs += [name for name, value in self.inputs.items() if resumed.inputs.get(name, value) != value]
        # A run that once went on under other conditions is exact no more, also where it goes on under its own again.
        differs = self.inexact_by = list(dict.fromkeys([*resumed.inexact_by, *differs]))
        exact = self.compute.is_deterministic and not differs
        self.events.emit("resumed", step=resumed.number, exact_resume=exact)
        if differs:
            self.events.emit(
                "warning",
                code="inexact_resume",
                message=f"this run goes on, or went on before, where {', '.join(differs)} differ from where it began: "
                "it will end well, but not with the same bits as an undisturbed run.",
            )

    def _plan_progress(self) -> None:
        rows = len(self.dataset.train)
        all_rows = sum(len(split) for split in self.dataset.splits.values())
        if self.job.teacher_tuning is not None and self._cached_tuned_teacher() is None:
            self.progress.plan(TUNING, training_work(self.teacher_layers, self.job.teacher_tuning.epochs * rows))
        self.progress.plan("teacher_outputs", forward_work(self.teacher_layers, all_rows))
        training, layers = self.job.training, self.job.student.layers
        # By arm, what its rounds cost beside their training.
        self.work_of_questions: dict[str, list[float]] = {}
        for name, methods in self._arms():
            asked = self.work_of_questions[name] = self.guidance.work_of_questions(
                build_recipe(methods), training, layers
            )
            work = training_work(layers, training.epochs * rows) + sum(asked)
            self.progress.plan(name, work)
            if name in self.finished:
                self.progress.restore(name, work)

    # -- the teacher --------------------------------------------------------------------------------

    def _tune_teacher(self) -> None:
        """Have the tuned teacher: from the cache, or by tuning it.

        It is in no checkpoint: each would be larger by it. Where the cache has lost it since an arm began to learn from
        it, it is tuned again, on the same machine to the same bits. That arm waits meanwhile, in the checkpoints of the
        tuning too; and what it began with stays recorded there, until the teacher is here again to be compared.
        """
        tuning = self.job.teacher_tuning
        if tuning is None:
            return
        cached = self._cached_tuned_teacher()
        if cached is None:
            is_again = self.resumed is not None and _TUNED_TEACHER in self.resumed.inputs
            if not is_again:
                self._announce_resume()
            result = self._run_arm(self._tuning_arm(tuning), self.teacher, teacher=None)
            if not is_again:
                self.steps_before += result.record["steps"]
            self.teacher.end_training()
            cached = self._store_tuned_teacher(result)
        self.resumed_arms.pop(TUNING, None)  # where the cache has more than the checkpoint
        weights = {name: torch.from_numpy(array) for name, array in load_file(cached).items()}
        put_weights(self.teacher, weights)
        self.inputs[_TUNED_TEACHER] = sha256_of(cached)

    def _tuning_arm(self, tuning: TeacherTuningConfig) -> Arm:
        return Arm(
            name=TUNING,
            phase=TUNING,
            seed=tuning.seed,
            epochs=tuning.epochs,
            objective=CrossEntropy(),
            strategy=RealRows(),
            parameterisation=None,
            schedule=Schedule(tuning.learning_rate, tuning.warmup_ratio, tuning.weight_decay, tuning.batch_size),
            layers=self.teacher_layers,
            trains_words=True,
        )

    def _cached_tuned_teacher(self) -> Path | None:
        key = caches.tuned_teacher_key(self.job)
        return self.cache.find(caches.TUNED_TEACHERS, key, "trained.safetensors") if key else None

    def _store_tuned_teacher(self, result: ArmResult) -> Path:
        """Keep what tuning trained."""
        key = caches.tuned_teacher_key(self.job)
        assert key is not None
        arrays = {name: tensor.numpy() for name, tensor in result.best_weights.items()}
        return self._store(caches.TUNED_TEACHERS, key, "trained.safetensors", arrays)

    def _teacher_outputs(self) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """(rows, classes) logits of every split, computed once for all jobs on this teacher and dataset, and (rows,
        width) features of the training split where an arm needs them: one pass gives both."""
        key = caches.teacher_outputs_key(self.job)
        logits_file = f"logits-{self.compute.precision}.safetensors"
        features_file = f"features-{self.compute.precision}.safetensors"
        logits_at = self.cache.find(caches.TEACHER_OUTPUTS, key, logits_file)
        features_at = self.cache.find(_TEACHER_FEATURES, key, features_file)
        asks_features = self.needs_features and features_at is None
        if logits_at is None:
            said = self._ask_teacher(list(self.dataset.splits), keeps_features=asks_features)
            logits = {name: predictions.logits for name, predictions in said.items()}
            _check_finite(logits)
            logits_at = self._store(caches.TEACHER_OUTPUTS, key, logits_file, logits)
        else:
            logits = load_file(logits_at)
            _check_finite(logits)  # older releases kept what they were
            said = self._ask_teacher(["train"], keeps_features=True) if asks_features else {}
        self.progress.complete("teacher_outputs")
        self.inputs["teacher_outputs"] = sha256_of(logits_at)
        if not self.needs_features:
            return logits, None
        if features_at is None:
            features = said["train"].features
            assert features is not None
            self._keep(_TEACHER_FEATURES, key, features_file, {"train": features})
            features_at = self.cache.path(_TEACHER_FEATURES, key) / features_file
        else:
            features = load_file(features_at)["train"]
        self.inputs[_TEACHER_FEATURES] = sha256_of(features_at)
        return logits, features

    def _ask_teacher(self, splits: list[str], *, keeps_features: bool) -> dict[str, Predictions]:
        """What the teacher says to the rows of these splits; features are kept of the training split alone."""
        rows = sum(len(self.dataset.splits[name]) for name in splits)
        self.progress.plan("teacher_outputs", forward_work(self.teacher_layers, rows))
        self.progress.enter("teacher_outputs")
        return {
            name: predict(
                self.teacher,
                self.dataset.splits[name],
                self.compute.device,
                after_batch=self._after_teacher_batch,
                keeps_features=keeps_features and name == "train",
            )
            for name in splits
        }

    def _after_teacher_batch(self, rows: int) -> None:
        self.progress.advance("teacher_outputs", forward_work(self.teacher_layers, rows))
        self._check_stop()

    # -- the student --------------------------------------------------------------------------------

    def _train_arm(self, name: str, methods: list[MethodConfig], phase: str) -> None:
        if name in self.finished:
            return
        recipe = build_recipe(methods)
        training = self.job.training
        arm = Arm(
            name=name,
            phase=phase,
            seed=training.seed,
            epochs=training.epochs,
            objective=recipe.objective,
            strategy=recipe.strategy,
            parameterisation=recipe.parameterisation,
            schedule=Schedule(
                training.learning_rate, training.warmup_ratio, training.weight_decay, training.batch_size
            ),
            layers=self.job.student.layers,
            trains_words=self.parameterisation.trains_words,
        )
        student = build_network(self.parameterisation.wrap(self.teacher.model, self.compute), self.compute)
        teacher = None
        if recipe.objective.needs_teacher:
            teacher = Predictions(self.teacher_logits["train"], None)
            if recipe.objective.needs_features:
                classifier = last_layer(self.teacher.model).weight.detach().cpu().numpy()
                teacher = replace(teacher, features=self.teacher_features, classifier=classifier)
        rows = None if recipe.subset is None else recipe.subset(self.dataset.train.labels, training.seed)
        result = self._run_arm(arm, student, teacher=teacher, rows=rows)
        self.steps_before += result.record["steps"]
        self.finished[name] = result.record
        self.finished_weights[name] = result.best_weights
        self._save_checkpoint(None, None, _round_facts(name, result.record["rounds"], result.record["best_round"] - 1))

    def _run_arm(
        self, arm: Arm, network: Network, *, teacher: Predictions | None, rows: np.ndarray | None = None
    ) -> ArmResult:
        """Train `network` on these `rows` of the training split, or all."""
        rows = np.arange(len(self.dataset.train)) if rows is None else rows
        context = ArmContext(
            split=self.dataset.train,
            validation=self.dataset.splits["validation"],
            teacher=teacher,
            vectors=self.guidance.vectors,
            compute=self.compute,
            events=self.events,
            progress=self.progress,
            work_of_questions=self.work_of_questions.get(arm.name, []),
            strategy=self.guidance.context(arm.name, arm.seed, network, teacher, rows),
            watch=self.watch,
            at_safe_point=functools.partial(self._at_safe_point, arm.name),
        )
        resumed = self.resumed_arms.pop(arm.name, None)
        with self.watch.on(arm.phase):
            return ArmTraining(arm, network, context, resumed).run()

    def _arms(self) -> list[tuple[str, list[MethodConfig]]]:
        """The student and the baselines, in the order of their training, each with its methods."""
        student = (STUDENT, [self.job.method, *self.job.combine])
        return [student, *((f"baseline.{method.type}", [method]) for method in self.job.baselines)]

    # -- checkpoints --------------------------------------------------------------------------------

    def _at_safe_point(self, arm: str, state: Callable[[], ArmState], *, is_round_end: bool, is_saved: bool) -> None:
        is_due = time.monotonic() - self.last_checkpoint >= self.job.checkpoint.every_seconds
        if not is_saved and (is_round_end or is_due or self.stop_requested()):
            arm_state = state()
            facts = _round_facts(arm, arm_state.position.rounds_done, arm_state.position.best_round)
            self._save_checkpoint(arm, arm_state, facts if is_round_end else {"arm": arm})
        self._check_stop()

    def _save_checkpoint(self, arm: str | None, state: ArmState | None, facts: dict[str, Any]) -> None:
        """Write a checkpoint and announce it with `facts`: what was just trained, and how good it is."""
        steps = self.steps_before + (state.position.step if state else 0)
        # The newest checkpoint has the highest number, also where an arm ends right after a timed one.
        self.last_number = max(steps, self.last_number + 1)
        # A checkpoint not yet held against what this run goes on with is not to be forgotten.
        began_with = self if self.resumed is None else self.resumed
        checkpoint = RunState(
            number=self.last_number,
            steps_before=self.steps_before,
            environment=began_with.environment,
            inputs=began_with.inputs,
            inexact_by=began_with.inexact_by,
            coordinates=self.coordinates.value,
            finished=self.finished,
            finished_weights=self.finished_weights,
            arm=arm,
            arm_state=state,
            waiting=self.resumed_arms,
        )
        began = time.monotonic()
        with self.watch.on("checkpoints"):
            folder = save_checkpoint(self.folder / "checkpoints", checkpoint, keep=self.job.checkpoint.keep)
        self.last_checkpoint = time.monotonic()
        facts = {"path": f"checkpoints/{folder.name}", "seconds": self.last_checkpoint - began, **facts}
        self.events.emit("checkpoint", step=checkpoint.number, **facts)

    def _check_stop(self) -> None:
        if self.stop_requested():
            raise Stopped

    def _keep(self, kind: str, key: str, file: str, arrays: dict[str, np.ndarray]) -> str:
        """Put the arrays into the run's own cache; returns the entry's path, relative to the run folder."""
        folder = self.cache.begin(kind, key)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / file)
        return self.cache.commit(kind, key, folder)

    def _store(self, kind: str, key: str, file: str, arrays: dict[str, np.ndarray]) -> Path:
        self.events.emit("cache", kind=kind, key=key, path=self._keep(kind, key, file, arrays))
        found = self.cache.find(kind, key, file)
        assert found is not None
        return found

    # -- results ------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, Any]:
        self.progress.enter("evaluating")
        measurer = Measurer(
            self.dataset,
            self.teacher_logits,
            self.compute.device,
            self.tokenizer,
            self.job.training.max_length,
            self._check_stop,
        )
        teacher = measurer.measure_teacher(self.teacher)
        student = build_network(self.parameterisation.wrap(self.teacher.model, self.compute), self.compute)
        measured = {
            arm: measurer.measure_student(student, weights, teacher) for arm, weights in self.finished_weights.items()
        }
        return {
            "teacher": teacher,
            "student": measured[STUDENT],
            "baselines": {b.type: measured[f"baseline.{b.type}"] for b in self.job.baselines},
            "labels": self.dataset.labels,
            "hardware": hardware(self.compute),
            "threads": self.compute.threads,
        }

    def _export(self, result: dict[str, Any]) -> None:
        self.progress.enter("exporting")
        student = self.parameterisation.wrap(self.teacher.model, self.compute)
        load_weights(student, self.finished_weights[STUDENT])
        result["content_sha256"] = write_artifact(
            self.folder / "artifact",
            student=self.parameterisation.merge(student),
            tokenizer=self.tokenizer,
            job=self.raw_job,
            result=result,
            records=self.finished,
        )
        pack(self.folder / "artifact", self.folder / "artifact.tar.gz")


def _check_finite(logits: dict[str, np.ndarray]) -> None:
    """Raises TeacherNotFinite where some of the teacher's `logits`, by split, are nothing to learn or to measure by."""
    for name, of_split in logits.items():
        broken = rows_not_finite(of_split)
        if len(broken):
            raise TeacherNotFinite(
                f"the teacher answers {len(broken)} of {len(of_split)} {name} rows with logits that are not finite "
                f"numbers; the first is row {broken[0]} (from 0, as the dataset was prepared). What it knows of some "
                "word is broken, or its numbers overflowed: save it again in fp32 and check a prediction, set "
                "training.precision to fp32, or use another teacher."
            )


def _round_facts(arm: str, rounds: list[dict[str, Any]], best_round: int) -> dict[str, Any]:
    """What a checkpoint at the end of an arm's newest round holds; `best_round` counts from 0."""
    newest = rounds[-1] if rounds else None
    if newest is None or arm != STUDENT:
        return {"arm": arm, "round": newest["round"] if newest else None}
    return {
        "arm": arm,
        "round": newest["round"],
        "validation_accuracy": newest["accuracy"],
        "is_best": newest["round"] == best_round + 1,
    }
