"""What the teacher says to every row, computed once for all jobs on it and the dataset."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from worker.distill.cache_keys import TEACHER_OUTPUTS, teacher_outputs_key
from worker.distill.checkpoint import TeacherPassState
from worker.distill.config import JobConfig
from worker.distill.data import Dataset
from worker.distill.device import Compute
from worker.distill.errors import TeacherNotFinite
from worker.distill.export import sha256_of
from worker.distill.families import count_layers
from worker.distill.network import Network
from worker.distill.predict import in_order_of_pass, predict, rows_not_finite
from worker.distill.progress import Progress, forward_work
from worker.distill.rows import Predictions
from worker.distill.run_cache import RunCache
from worker.distill.run_checkpoints import RunCheckpoints

PHASE = "teacher_outputs"
# A kind of cache entry that stays with the run, and is not announced: few jobs ask for them, and they are large.
_TEACHER_FEATURES = "teacher_features"


@dataclass(frozen=True)
class TeacherOutputs:
    logits: dict[str, np.ndarray]  # by split, (rows, classes)
    features: np.ndarray | None  # (rows, width), of the training split, where they were asked for
    inputs: dict[str, str]  # of both, the content hashes


@dataclass(frozen=True)
class TeacherPass:
    """Has the outputs of the `teacher`, as it is when they are asked for, from the cache or from itself."""

    job: JobConfig
    teacher: Network
    dataset: Dataset
    compute: Compute
    cache: RunCache
    checkpoints: RunCheckpoints
    progress: Progress

    def plan(self, splits: list[str]) -> None:
        """Foresee asking about the rows of these splits."""
        self.progress.plan(PHASE, self._work(sum(len(self.dataset.splits[name]) for name in splits)))

    def outputs(self, tuned: str | None, *, needs_features: bool) -> TeacherOutputs:
        """One pass gives logits and features; `tuned` is the hash of the tuned weights that the teacher has, if it has
        any. A pass that was begun goes on, whatever is in the cache by now: that may be another machine's, of other
        bits. Raises TeacherNotFinite where some logits are not finite."""
        key = teacher_outputs_key(self.job)
        # The key knows how the teacher was tuned, and not on which machine: two that do it at once have two teachers.
        teacher = "" if tuned is None else f"-of-{tuned[:16]}"
        file = f"{self.compute.precision}-{self.dataset.tokens_sha256[:16]}{teacher}.safetensors"
        logits_file, features_file = f"logits-{file}", f"features-{file}"
        begun = self.checkpoints.take_teacher_pass()
        if begun is None or not {logits_file, features_file}.issuperset(begun.files):
            begun = TeacherPassState([], {})
        logits_at = None if logits_file in begun.files else self.cache.find(TEACHER_OUTPUTS, key, logits_file)
        features_at = None if features_file in begun.files else self.cache.find(_TEACHER_FEATURES, key, features_file)
        asks_features = needs_features and features_at is None
        missing = ([logits_file] if logits_at is None else []) + ([features_file] if asks_features else [])
        begun = TeacherPassState(missing, begun.said if begun.files == missing else {})
        said: dict[str, Predictions] = {}
        if logits_at is None:
            said = self._ask(list(self.dataset.splits), begun, keeps_features=asks_features)
            logits = {name: predictions.logits for name, predictions in said.items()}
            _check_finite(logits, self.dataset)
            logits_at = self.cache.share(TEACHER_OUTPUTS, key, logits_file, logits)
        else:
            logits = load_file(logits_at)
            _check_finite(logits, self.dataset)  # older releases kept what they were
            if asks_features:
                said = self._ask(["train"], begun, keeps_features=True)
        self.progress.complete(PHASE)
        self.checkpoints.preparation[PHASE] = self.progress.done(PHASE)
        inputs = {TEACHER_OUTPUTS: sha256_of(logits_at)}
        if not needs_features:
            return TeacherOutputs(logits, None, inputs)
        if features_at is None:
            features = said["train"].features
            assert features is not None
            features_at = self.cache.keep(_TEACHER_FEATURES, key, features_file, {"train": features})
        else:
            features = load_file(features_at)["train"]
        return TeacherOutputs(logits, features, inputs | {_TEACHER_FEATURES: sha256_of(features_at)})

    def _ask(self, splits: list[str], begun: TeacherPassState, *, keeps_features: bool) -> dict[str, Predictions]:
        """What the teacher says to the rows of these splits, from where it has `begun`; features are kept of the
        training split alone."""
        self.progress.redo(PHASE)
        self.plan(splits)
        self.progress.restore(PHASE, self._work(sum(len(answered.logits) for answered in begun.said.values())))
        self.progress.enter(PHASE)
        said: dict[str, Predictions] = {}
        for name in splits:
            said[name] = predict(
                self.teacher,
                self.dataset.splits[name],
                self.compute.device,
                after_batch=lambda rows: self.progress.advance(PHASE, self._work(rows)),
                keeps_features=keeps_features and name == "train",
                begun=begun.said.get(name),
                so_far=functools.partial(self._save, begun.files, dict(said), name),
            )
        return said

    def _save(
        self, files: list[str], said: dict[str, Predictions], name: str, so_far: Callable[[], Predictions]
    ) -> None:
        """A checkpoint, if one is due: of what was `said` to earlier splits, and `so_far` to the one of that name."""

        def state() -> TeacherPassState:
            whole = {split: in_order_of_pass(of, self.dataset.splits[split].lengths) for split, of in said.items()}
            return TeacherPassState(files, whole | {name: so_far()})

        self.checkpoints.at_safe_point_of_pass(state)

    def _work(self, rows: int) -> float:
        return forward_work(count_layers(self.teacher.model), rows)


def _check_finite(logits: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Raises TeacherNotFinite where some of the teacher's `logits`, by split, are nothing to learn or to measure by."""
    for name, of_split in logits.items():
        broken = rows_not_finite(of_split)
        if len(broken):
            raise TeacherNotFinite(
                f"the teacher answers {len(broken)} of {len(of_split)} {name} rows with logits that are not finite "
                f"numbers; the first is {dataset.splits[name].place(name, broken[0])} (from 0, as the dataset was "
                "prepared). What it knows of some word is broken, or its numbers overflowed: save it again in fp32 and "
                "check a prediction, set training.precision to fp32, or use another teacher."
            )
