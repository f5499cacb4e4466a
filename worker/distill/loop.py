"""A distillation from beginning to end. Read this first.

    load -> tune the teacher (if asked) -> its outputs, once -> train the student and each baseline
         -> measure -> export

Each training is an "arm" (arms.py, train.py); where one stands is in the checkpoints, so that a run
killed at any moment and resumed ends as one never killed. What is computed once and outlives the job
(the tuned teacher, its outputs, the projection) lies in the cache under the hash of its inputs.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worker.distill.arms import STUDENT, baseline, methods_by_arm
from worker.distill.cache_keys import TEACHER_OUTPUTS, projection_key
from worker.distill.checkpoint import load_latest
from worker.distill.config import JobConfig, MethodConfig, read_job
from worker.distill.coordinates import Coordinates
from worker.distill.data import Split
from worker.distill.device import hardware
from worker.distill.errors import Stopped
from worker.distill.evaluate import measure_quality
from worker.distill.events import EventLog
from worker.distill.export import pack, write_artifact
from worker.distill.families import last_layer
from worker.distill.guidance import Guidance
from worker.distill.loading import doubt_length, doubt_padding, load_parts
from worker.distill.methods.registry import build_recipe
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.progress import Progress, training_work
from worker.distill.results import Measurer
from worker.distill.rows import Predictions
from worker.distill.run_cache import RunCache
from worker.distill.run_checkpoints import RunCheckpoints
from worker.distill.run_folder import ARCHIVE, ARTIFACT, CHECKPOINTS, JOB
from worker.distill.stopwatch import Stopwatch
from worker.distill.student import TeacherLayersStudent
from worker.distill.teacher import doubt_order
from worker.distill.teacher_outputs import PHASE as TEACHER_OUTPUTS_PHASE
from worker.distill.teacher_outputs import TeacherOutputs, TeacherPass
from worker.distill.train import Arm, ArmContext, ArmResult, ArmTraining, Schedule
from worker.distill.tuned_teacher import TunedTeacher
from worker.distill.weights import load_weights


def distil(folder: Path, events: EventLog, stop_requested: Callable[[], bool]) -> None:
    """Run the job in `folder` to its end, or raise Stopped soon after `stop_requested` says so."""
    Run(folder, events, stop_requested).execute()


class Run:
    """What the parts of one run have in common; what is read from its folder is whole once it is made."""

    def __init__(self, folder: Path, events: EventLog, stop_requested: Callable[[], bool]) -> None:
        self.started = time.monotonic()
        self.folder = folder
        self.events = events
        self.stop_requested = stop_requested
        self.watch = Stopwatch()
        self.cache = RunCache(folder, events)
        self.progress = Progress(events)
        self.progress.enter("preparing")
        with self.watch.on("loading"):
            self.raw_job = read_job(folder / JOB)
            self.job = JobConfig.parse(self.raw_job)
            resumed = load_latest(folder / CHECKPOINTS)
            self.is_resumed = resumed is not None
            parts = load_parts(folder, self.job, resumed.environment if resumed else None)
        self.compute, self.tokenizer, self.dataset = parts.compute, parts.tokenizer, parts.dataset
        self.teacher, self.table = parts.teacher, parts.table
        self.student_maker = TeacherLayersStudent(self.job.student)
        known = resumed.coordinates if resumed else None
        coordinates = Coordinates(
            folder,
            self.cache,
            projection_key(self.job),
            tokens_sha256=self.dataset.tokens_sha256,
            resumed=known,
            is_resumed=self.is_resumed,
        )
        self.checkpoints = RunCheckpoints(
            folder / CHECKPOINTS,
            self.job.checkpoint,
            resumed,
            is_deterministic=self.compute.is_deterministic,
            environment=parts.environment,
            inputs={"teacher": self.job.teacher.sha256, "dataset": self.job.dataset.sha256},
            coordinates=coordinates,
            events=events,
            watch=self.watch,
            stop_requested=stop_requested,
        )
        self.checkpoints.goes_on_with_tokens(self.dataset.tokens_sha256)
        self.tuned_teacher = TunedTeacher(
            self.job, self.teacher, self.dataset.tokens_sha256, self.cache, self.checkpoints, self.progress
        )
        self.teacher_pass = TeacherPass(
            self.job, self.teacher, self.dataset, self.compute, self.cache, self.checkpoints, self.progress
        )
        self.guidance = Guidance(
            split=self.dataset.train,
            teacher=self.teacher,
            classes=len(self.dataset.labels),
            coordinates=coordinates,
            compute=self.compute,
            watch=self.watch,
            progress=self.progress,
            check_stop=self._check_stop,
        )
        # By arm and round, what it asks before it trains, in the progress's unit.
        self.work_of_questions = {
            name: self.guidance.work_of_questions(build_recipe(methods), self.job.training, self.job.student.layers)
            for name, methods in methods_by_arm(self.job).items()
        }

    def execute(self) -> None:
        self._plan_progress()
        self._doubt_texts()
        arms = methods_by_arm(self.job)
        unfinished = [build_recipe(methods) for name, methods in arms.items() if name not in self.checkpoints.finished]
        if any(recipe.strategy.needs_projection for recipe in unfinished):
            shifts = any(recipe.strategy.needs_vectors for recipe in unfinished)
            self.guidance.begin(self.table, self.folder, shifts=shifts)
        tuned = self.tuned_teacher.bring(
            lambda arm: self._run_arm(arm, self.teacher, teacher=None, split=self.dataset.train.labelled)
        )
        with self.watch.on(TEACHER_OUTPUTS_PHASE):
            needs_features = any(recipe.objective.needs_features for recipe in unfinished)
            said = self.teacher_pass.outputs(tuned, needs_features=needs_features)
        for name, sha256 in said.inputs.items():
            self.checkpoints.goes_on_with(name, sha256)
        quality = measure_quality(said.logits["validation"], self.dataset.splits["validation"].labels)
        self.guidance.teacher_error = 1 - quality.accuracy
        self.guidance.teacher_outputs_sha256 = said.inputs[TEACHER_OUTPUTS]
        is_first = not self.checkpoints.began_with(TEACHER_OUTPUTS)
        self.checkpoints.announce_resume()
        if is_first:
            self._doubt_order(said)
        for name, methods in arms.items():
            if name not in self.checkpoints.finished:
                self.checkpoints.finish(name, self._train_arm(name, methods, said))
        with self.watch.on("evaluating"):
            result = self._measure(said)
        # Of this attempt alone: what an earlier one spent went with it.
        result["seconds"] = round(time.monotonic() - self.started, 1)
        result["seconds_by_part"] = {part: round(seconds, 2) for part, seconds in self.watch.seconds.items()}
        self._export(result)
        self.events.emit("succeeded", result=result)

    def _plan_progress(self) -> None:
        self.teacher_pass.plan(list(self.dataset.splits))
        for part, work in self.checkpoints.preparation.items():
            self.progress.plan(part, work)
            self.progress.restore(part, work)
        self.tuned_teacher.plan(len(self.dataset.train.labelled))
        for name, methods in methods_by_arm(self.job).items():
            rows = len(build_recipe(methods).learns_from(self.dataset.train))
            asked = self.work_of_questions[name]
            work = training_work(self.job.student.layers, self.job.training.epochs * rows) + sum(asked)
            self.progress.plan(name, work)
            if name in self.checkpoints.finished:
                self.progress.restore(name, work)

    def _doubt_texts(self) -> None:
        """Warn, once for all attempts, of texts that were cut, and of those that the student will read otherwise."""
        if self.is_resumed:
            return
        doubts = {
            "texts_cut": doubt_length(self.dataset, self.job.training.max_length),
            "padding_in_texts": doubt_padding(self.teacher.model.config, self.dataset, self.tokenizer),
        }
        for code, message in doubts.items():
            if message is not None:
                self.events.emit("warning", code=code, message=message)

    def _doubt_order(self, said: TeacherOutputs) -> None:
        """Warn where a teacher that names no classes seems to have them in another order."""
        if self.job.teacher_tuning is not None:
            return
        truth = self.dataset.splits["validation"].labels
        doubt = doubt_order(self.folder / self.job.teacher.path, self.dataset.labels, said.logits["validation"], truth)
        if doubt is not None:
            self.events.emit("warning", code="teacher_order_doubtful", message=doubt)

    def _train_arm(self, name: str, methods: list[MethodConfig], said: TeacherOutputs) -> ArmResult:
        """Train the student or a baseline on what the teacher `said`."""
        recipe = build_recipe(methods)
        training = self.job.training
        arm = Arm(
            name=name,
            phase="training" if name == STUDENT else "baseline",
            seed=training.seed,
            epochs=training.epochs,
            objective=recipe.objective,
            strategy=recipe.strategy,
            parameterisation=recipe.parameterisation,
            schedule=Schedule(
                training.learning_rate, training.warmup_ratio, training.weight_decay, training.batch_size
            ),
            layers=self.job.student.layers,
            trains_words=self.student_maker.trains_words,
        )
        student = build_network(self.student_maker.wrap(self.teacher.model, self.compute), self.compute)
        teacher = None
        if recipe.objective.needs_teacher:
            teacher = Predictions(said.logits["train"], None)
            if recipe.objective.needs_features:
                classifier = last_layer(self.teacher.model).weight.detach().cpu().numpy()
                teacher = replace(teacher, features=said.features, classifier=classifier)
        split = recipe.learns_from(self.dataset.train)
        rows = None if recipe.subset is None else recipe.subset(split.labels, training.seed)
        return self._run_arm(arm, student, teacher=teacher, split=split, rows=rows)

    def _run_arm(
        self,
        arm: Arm,
        network: Network,
        *,
        teacher: Predictions | None,
        split: Split,
        rows: np.ndarray | None = None,
    ) -> ArmResult:
        """Train `network` on these `rows` of `split`, or all: of the training rows, or the labelled ones of them."""
        rows = np.arange(len(split)) if rows is None else rows
        context = ArmContext(
            split=split,
            validation=self.dataset.splits["validation"],
            teacher=teacher,
            vectors=self.guidance.vectors,
            compute=self.compute,
            events=self.events,
            progress=self.progress,
            work_of_questions=self.work_of_questions.get(arm.name, []),
            strategy=self.guidance.context(arm.name, arm.seed, network, teacher, split, rows),
            watch=self.watch,
            at_safe_point=functools.partial(self.checkpoints.at_safe_point, arm.name),
        )
        resumed = self.checkpoints.take(arm.name)
        with self.watch.on(arm.phase):
            return ArmTraining(arm, network, context, resumed).run()

    def _check_stop(self) -> None:
        if self.stop_requested():
            raise Stopped

    def _measure(self, said: TeacherOutputs) -> dict[str, Any]:
        self.progress.enter("evaluating")
        measurer = Measurer(
            self.dataset,
            said.logits,
            self.compute.device,
            self.tokenizer,
            self.job.training.max_length,
            self._check_stop,
        )
        teacher = measurer.measure_teacher(self.teacher)
        student = build_network(self.student_maker.wrap(self.teacher.model, self.compute), self.compute)
        measured = {
            arm: measurer.measure_student(student, weights, teacher)
            for arm, weights in self.checkpoints.finished_weights.items()
        }
        of_teacher, of_students = measurer.measure_latencies(self.teacher, student)
        teacher.summary["latency_ms"] = of_teacher
        for model in measured.values():
            model.summary["latency_ms"] = dict(of_students)  # they are of one shape, and no time goes by the weights
        baselines = {method.type: measured[baseline(method.type)] for method in self.job.baselines}
        ahead_of = measured[STUDENT].ahead_of({"teacher": teacher} | baselines)
        return {
            "teacher": teacher.summary,
            "student": measured[STUDENT].summary | {"ahead_of": ahead_of},
            "baselines": {name: model.summary for name, model in baselines.items()},
            "labels": self.dataset.labels,
            "hardware": hardware(self.compute),
            "threads": self.compute.threads,
        }

    def _export(self, result: dict[str, Any]) -> None:
        self.progress.enter("exporting")
        student = self.student_maker.wrap(self.teacher.model, self.compute)
        load_weights(student, self.checkpoints.finished_weights[STUDENT])
        result["content_sha256"] = write_artifact(
            self.folder / ARTIFACT,
            student=self.student_maker.merge(student),
            tokenizer=self.tokenizer,
            job=self.raw_job,
            result=result,
            records=self.checkpoints.finished,
        )
        pack(self.folder / ARTIFACT, self.folder / ARCHIVE)
