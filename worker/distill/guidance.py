"""What a strategy may ask of a run: losses of rows, the map and rows drawn by it, the teacher's word on them."""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worker.distill.choice import Choice
from worker.distill.config import TrainingConfig
from worker.distill.coordinates import Coordinates
from worker.distill.data import Split
from worker.distill.device import Compute
from worker.distill.families import count_layers
from worker.distill.labelling import label_rows, predict_synthetic
from worker.distill.methods.registry import Recipe
from worker.distill.network import Network
from worker.distill.objectives import Answers, Objective
from worker.distill.predict import predict_logits
from worker.distill.progress import Progress, forward_work
from worker.distill.projection import Projection
from worker.distill.rows import Predictions, SyntheticRows, parts_by_logits
from worker.distill.splicing import Splices
from worker.distill.stopwatch import Stopwatch
from worker.distill.strategies.base import StrategyContext
from worker.distill.synthesis import Points, Synthesizer
from worker.distill.vectors import write_pooled_vectors

_VECTORS_FILE = "vectors.npy"


@dataclass
class Guidance:
    """The parts of one run that guided strategies need. The map is laid in the vectors that the teacher came with,
    and so are the points of shifted rows: neither depends on its tuning."""

    split: Split  # the training rows
    teacher: Network
    classes: int
    coordinates: Coordinates
    compute: Compute
    watch: Stopwatch
    progress: Progress
    check_stop: Callable[[], None]
    # (rows, width) pooled, once begun; no rows where nothing reads them.
    vectors: np.ndarray | None = field(default=None, init=False)
    teacher_error: float = field(default=math.nan, init=False)  # on the validation rows, once it has answered them
    # Of its answers to the real rows, once they are there: by these it is known which teacher it is, in what precision
    # and on what hardware.
    teacher_outputs_sha256: str = field(default="", init=False)
    _synthesizers: dict[tuple[int, bytes], Synthesizer] = field(default_factory=dict, init=False)

    def begin(self, table: torch.Tensor, folder: Path, *, shifts: bool) -> None:
        """Lay the map beside what comes next, where it is not known; `folder` is the run's.

        The rows' vectors are pooled for it, and where a strategy `shifts` rows by them: at once, since the table is
        tuned with the teacher.
        """
        with self.watch.on("projection"):
            self.vectors = np.empty((0, table.shape[1]), np.float32)
            if shifts or self.coordinates.value is None:
                file = folder / _VECTORS_FILE
                self.vectors = write_pooled_vectors(self.split, table, self.compute, file)
                self.coordinates.start(file)

    def work_of_questions(self, recipe: Recipe, training: TrainingConfig, student_layers: int) -> list[float]:
        """What it will cost to ask the models what each round of the recipe's strategy asks, for the progress."""
        labels = recipe.learns_from(self.split).labels
        learnt = len(labels) if recipe.subset is None else len(recipe.subset(labels, training.seed))
        teacher_layers = count_layers(self.teacher.model)
        return [
            forward_work(teacher_layers, asked.teacher) + forward_work(student_layers, asked.student)
            for asked in recipe.strategy.questions(training.epochs, len(labels), learnt)
        ]

    def context(
        self, arm: str, seed: int, student: Network, teacher: Predictions | None, split: Split, rows: np.ndarray
    ) -> StrategyContext:
        """What the arm's strategy gets; what the `teacher` says is of the training rows. Of those the arm knows
        `split`, all or the labelled ones, and learns `rows`."""
        keeps_features = teacher is not None and teacher.features is not None
        choice = Choice(self.teacher_outputs_sha256, functools.partial(self.progress.redo, arm))
        teacher_answered = functools.partial(self._answered, arm, choice, count_layers(self.teacher.model))
        student_answered = functools.partial(self._answered, arm, choice, count_layers(student.model))
        return StrategyContext(
            arm=arm,
            seed=seed,
            split=split,
            rows=rows,
            synthesizer=functools.partial(self._synthesizer, rows),
            score=functools.partial(self._score, student, teacher, choice, student_answered),
            teacher_error=self.teacher_error,
            label=functools.partial(self._label, choice, teacher_answered, keeps_features=keeps_features),
            score_synthetic=functools.partial(self._score_synthetic, student, choice, student_answered),
            choice=choice,
        )

    def _answered(self, arm: str, choice: Choice, layers: int, rows: int) -> None:
        """A model of so many `layers` has said something to `rows`, as a round's `choice` for the arm asked."""
        work = forward_work(layers, rows)
        choice.spend(work)
        self.progress.advance(arm, work)

    def _synthesizer(self, rows: np.ndarray, neighbors: int) -> Synthesizer:
        key = neighbors, hashlib.sha256(rows.tobytes()).digest()  # arms on the same rows share it
        if key not in self._synthesizers:
            assert self.vectors is not None, "begin() comes before it"
            projection = Projection(self.vectors, self._map())
            self._synthesizers[key] = Synthesizer(projection, neighbors, rows)
        return self._synthesizers[key]

    def _map(self) -> np.ndarray:
        if self.coordinates.value is None:
            with self.progress.aside("projection"), self.watch.on("projection"):
                self.coordinates.wait(self.check_stop)
        assert self.coordinates.value is not None
        return self.coordinates.value

    def _score(
        self,
        student: Network,
        teacher: Predictions | None,
        choice: Choice,
        answered: Callable[[int], None],
        objective: Objective,
        rows: np.ndarray,
    ) -> np.ndarray:
        """(rows,) loss of each of these training rows under the student in evaluation mode, by which the choice is led:
        once for a round, wherever that goes on."""
        led_by = choice.losses(rows, repr(objective))
        if led_by is not None:
            return led_by

        def after_batch(rows: int) -> None:
            answered(rows)
            self.check_stop()

        with self.watch.on("scoring"):
            logits = predict_logits(student, self.split, self.compute.device, rows=rows, after_batch=after_batch)
            losses = [
                _losses(
                    objective,
                    logits[part],
                    None if teacher is None else teacher.logits[rows[part]],
                    self.split.labels[rows[part]],
                    self.split.has_label[rows[part]],
                )
                for part in parts_by_logits(len(rows), self.classes)
            ]
            led_by = np.concatenate(losses)
            choice.lead(led_by, rows, repr(objective))
            return led_by

    def _label(
        self, choice: Choice, answered: Callable[[int], None], drawn: Points | Splices, *, keeps_features: bool
    ) -> SyntheticRows:
        assert self.vectors is not None, "begin() comes before it"
        with self.watch.on("labelling"):
            choice.begin_part(drawn)
            return label_rows(
                drawn,
                self.teacher,
                self.split,
                self.vectors,
                self.compute.device,
                self.classes,
                keeps_features=keeps_features,
                after_batch=answered,
                begun=choice.labelled,
                so_far=choice.teacher_said,
            )

    def _score_synthetic(
        self,
        student: Network,
        choice: Choice,
        answered: Callable[[int], None],
        objective: Objective,
        synthetic: SyntheticRows,
    ) -> np.ndarray:
        """(rows,) loss of each row, by what the teacher says alone, under the student in evaluation mode."""
        assert self.vectors is not None, "begin() comes before it"
        with self.watch.on("scoring"):
            said = predict_synthetic(
                student,
                synthetic,
                self.split,
                self.vectors,
                self.compute.device,
                after_batch=answered,
                begun=choice.scored,
                so_far=choice.student_said,
            )
            labels = self.split.labels[synthetic.anchors]
            has_label = np.zeros(len(labels), bool)
            losses = [
                _losses(objective, said.logits[part], synthetic.teacher_logits[part], labels[part], has_label[part])
                for part in parts_by_logits(len(labels), self.classes)
            ]
            return np.concatenate(losses)


def _losses(
    objective: Objective, student: np.ndarray, teacher: np.ndarray | None, labels: np.ndarray, has_label: np.ndarray
) -> np.ndarray:
    """(rows,) loss of each row by the logits of the two, (rows, classes): of some rows at a time, so `objective` is one
    that looks at each by itself, as all do that rows are scored by."""
    answers = Answers(
        student=torch.from_numpy(student),
        teacher=None if teacher is None else torch.from_numpy(teacher),
        labels=torch.from_numpy(np.maximum(labels, 0)),
        has_label=torch.from_numpy(has_label),
    )
    return objective(answers).numpy()
