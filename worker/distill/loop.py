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
from worker.distill.errors import Stopped
from worker.distill.evaluate import measure_quality, predict, predict_logits
from worker.distill.events import EventLog
from worker.distill.export import pack, sha256_of, write_artifact
from worker.distill.families import family_of, last_layer, word_table
from worker.distill.guidance import Guidance
from worker.distill.methods.registry import build_recipe
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
            self.guidance.begin(self.table, self.folder)
        self._tune_teacher()
        with self.watch.on("teacher_outputs"):
            self.teacher_logits = self._teacher_outputs()
            self.teacher_features = self._teacher_features() if self.needs_features else None
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
        self.resumed_arms = {resumed.arm: resumed.arm_state} if resumed and resumed.arm else {}
        self.inputs = {"teacher": self.job.teacher.sha256, "dataset": self.job.dataset.sha256}
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
        self.parameterisation = TeacherLayersStudent(self.job.student)
        self.teacher_layers = len(family_of(teacher.config).layers(teacher))
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
        exact = self.compute.is_deterministic and not differs
        self.events.emit("resumed", step=resumed.number, exact_resume=exact)
        if differs:
            self.events.emit(
                "warning",
                code="inexact_resume",
                message=f"this run goes on where {', '.join(differs)} differ from where it began: it will end well, "
                "but not with the same bits as an undisturbed run.",
            )

    def _plan_progress(self) -> None:
        rows = len(self.dataset.train)
        all_rows = sum(len(split) for split in self.dataset.splits.values())
        if self.job.teacher_tuning is not None and self._cached_tuned_teacher() is None:
            self.progress.plan(TUNING, training_work(self.teacher_layers, self.job.teacher_tuning.epochs * rows))
        self.progress.plan("teacher_outputs", forward_work(self.teacher_layers, all_rows))
        for name, _ in self._arms():
            work = training_work(self.job.student.layers, self.job.training.epochs * rows)
            self.progress.plan(name, work)
            if name in self.finished:
                self.progress.restore(name, work)

    # -- the teacher --------------------------------------------------------------------------------

    def _tune_teacher(self) -> None:
        tuning = self.job.teacher_tuning
        if tuning is None:
            return
        cached = self._cached_tuned_teacher()
        if cached is None:
            result = self._run_arm(self._tuning_arm(tuning), self.teacher, teacher=None)
            self.teacher.end_training()
            cached = self._store_tuned_teacher(result)
        weights = {name: torch.from_numpy(array) for name, array in load_file(cached).items()}
        put_weights(self.teacher, weights)
        self.inputs["tuned_teacher"] = sha256_of(cached)

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

    def _teacher_outputs(self) -> dict[str, np.ndarray]:
        """(rows, classes) logits of every split, computed once for all jobs on this teacher and dataset."""
        key, file = caches.teacher_outputs_key(self.job), f"logits-{self.compute.precision}.safetensors"
        found = self.cache.find(caches.TEACHER_OUTPUTS, key, file)
        if found is None:
            self.progress.enter("teacher_outputs")
            logits = {
                name: predict_logits(self.teacher, split, self.compute.device, after_batch=self._after_teacher_batch)
                for name, split in self.dataset.splits.items()
            }
            found = self._store(caches.TEACHER_OUTPUTS, key, file, logits)
        self.progress.complete("teacher_outputs")
        self.inputs["teacher_outputs"] = sha256_of(found)
        return load_file(found)

    def _teacher_features(self) -> np.ndarray:
        """(rows, width) of the training split. They stay with the run: few jobs ask for them, and they are large."""
        kind, key = "teacher_features", caches.teacher_outputs_key(self.job)
        file = f"features-{self.compute.precision}.safetensors"
        found = self.cache.find(kind, key, file)
        if found is None:
            self.progress.enter("teacher_outputs")
            predictions = predict(
                self.teacher,
                self.dataset.train,
                self.compute.device,
                after_batch=lambda _: self._check_stop(),
                keeps_features=True,
            )
            assert predictions.features is not None
            self._keep(kind, key, file, {"train": predictions.features})
            found = self.cache.path(kind, key) / file
        self.inputs["teacher_features"] = sha256_of(found)
        return load_file(found)["train"]

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
        self.finished[name] = result.record
        self.finished_weights[name] = result.best_weights
        self._save_checkpoint(None, None, _round_facts(name, result.record["rounds"], result.record["best_round"] - 1))

    def _run_arm(
        self, arm: Arm, network: Network, *, teacher: Predictions | None, rows: np.ndarray | None = None
    ) -> ArmResult:
        """Train `network` on these `rows` of the training split, or all."""
        rows = np.arange(len(self.dataset.train)) if rows is None else rows
        validation = self.dataset.splits["validation"]
        context = ArmContext(
            split=self.dataset.train,
            teacher=teacher,
            vectors=self.guidance.vectors,
            compute=self.compute,
            events=self.events,
            progress=self.progress,
            strategy=self.guidance.context(arm.name, arm.seed, network, teacher, rows),
            watch=self.watch,
            validate=lambda student: measure_quality(
                predict_logits(student, validation, self.compute.device), validation.labels
            ),
            at_safe_point=functools.partial(self._at_safe_point, arm.name),
        )
        resumed = self.resumed_arms.pop(arm.name, None)
        self._announce_resume()
        with self.watch.on(arm.phase):
            result = ArmTraining(arm, network, context, resumed).run()
        self.steps_before += result.record["steps"]
        return result

    def _arms(self) -> list[tuple[str, list[MethodConfig]]]:
        """The student and the baselines, in the order of their training, each with its methods."""
        student = (STUDENT, [self.job.method, *self.job.combine])
        return [student, *((f"baseline.{method.type}", [method]) for method in self.job.baselines)]

    # -- checkpoints --------------------------------------------------------------------------------

    def _at_safe_point(self, arm: str, state: Callable[[], ArmState], *, is_round_end: bool) -> None:
        waited = time.monotonic() - self.last_checkpoint
        if is_round_end or self.stop_requested() or waited >= self.job.checkpoint.every_seconds:
            arm_state = state()
            facts = _round_facts(arm, arm_state.position.rounds_done, arm_state.position.best_round)
            self._save_checkpoint(arm, arm_state, facts if is_round_end else {"arm": arm})
        self._check_stop()

    def _save_checkpoint(self, arm: str | None, state: ArmState | None, facts: dict[str, Any]) -> None:
        """Write a checkpoint and announce it with `facts`: what was just trained, and how good it is."""
        steps = self.steps_before + (state.position.step if state else 0)
        # The newest checkpoint has the highest number, also where an arm ends right after a timed one.
        self.last_number = max(steps, self.last_number + 1)
        checkpoint = RunState(
            number=self.last_number,
            steps_before=self.steps_before,
            environment=self.environment,
            inputs=self.inputs,
            coordinates=self.coordinates.value,
            finished=self.finished,
            finished_weights=self.finished_weights,
            arm=arm,
            arm_state=state,
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
            self.dataset, self.teacher_logits, self.compute.device, self.tokenizer, self.job.training.max_length
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
