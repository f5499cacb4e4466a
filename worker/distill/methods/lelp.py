"""LELP: subclasses along what the teacher's features say and its classifier does not see.

After Loo, Iliopoulos, Hu and Vee, "Linear projections of teacher embeddings for few-class distillation" (2024).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from threadpoolctl import threadpool_limits

from worker.distill.errors import InvalidJob
from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, KnowledgeDistillation, Objective, teacher_logits
from worker.distill.rows import Predictions

_CHUNK_ROWS = 8_192
_INITIAL_DEVIATION = 0.02  # as transformers begins a classifier
_SEED = 0  # of the rotation within a class and of the second head: the same in every run
# A direction along which a class varies by so small a part of what is usual of a feature is rounding: that of bf16 is
# a millionth.
_LEAST_VARIANCE = 1e-5
_MEASURED_ROWS_AT_MOST = 20_000


@dataclass(frozen=True)
class Lelp(Method):
    revision = 3

    temperature: float
    alpha: float
    subclasses: int
    subclass_temperature: float

    def part(self) -> Part:
        return Part(objective=Subclasses(self))


@dataclass(frozen=True)
class Projection:
    """z = directions h - offsets: where in its class a row of feature h stands."""

    directions: np.ndarray  # (classes * subclasses, width) float32
    offsets: np.ndarray  # (classes * subclasses,) float32


class Subclasses(Objective):
    """(1 - alpha) CE(label, s) + alpha KL(p^T || p^S) over pairs (class, subclass), the classes' part of it times
    temperature^2.

    p(class c, subclass k) = softmax(t / temperature)_c softmax(z_c / subclass_temperature)_k for the teacher, z_c where
    the row stands along the directions of class c; the student's is softmax(s / temperature)_c softmax(a_c)_k, a from a
    second head on its features. By the chain rule the divergence is that of the classes and, weighed by the teacher's
    probability of each class, that within it: the temperature softens the first alone, so that its square restores no
    gradient but that one's. So the student's probabilities of the classes are those of its own
    classifier, which is all that is kept; in the paper they are the sum over one head's subclasses, which is no linear
    layer. With one subclass it is plain distillation.
    """

    needs_features = True

    def __init__(self, parameters: Lelp) -> None:
        self.own = parameters
        self.classes = KnowledgeDistillation(parameters.temperature, parameters.alpha)
        self._directions, self._offsets = torch.empty(0), torch.empty(0)
        self._head: dict[str, torch.nn.Parameter] = {}

    def check(self, classes: int, width: int) -> None:
        if width <= classes:
            raise InvalidJob(
                f"lelp looks for what the teacher's classifier does not see, and one of {classes} classes on features "
                f"of width {width} sees everything: use kd, or a wider teacher."
            )

    def begin(self, teacher: Predictions | None, labels: np.ndarray) -> None:  # noqa: ARG002
        assert teacher is not None
        assert teacher.features is not None, "it asked for them"
        assert teacher.classifier is not None
        found = subclass_projection(teacher.features, teacher.logits.argmax(1), teacher.classifier, self.own.subclasses)
        self._directions, self._offsets = torch.from_numpy(found.directions), torch.from_numpy(found.offsets)
        outputs, width = found.directions.shape
        draw = torch.Generator().manual_seed(_SEED)
        self._head = {
            "weight": torch.nn.Parameter(_INITIAL_DEVIATION * torch.randn(outputs, width, generator=draw)),
            "bias": torch.nn.Parameter(torch.zeros(outputs)),
        }

    def trained_beside(self) -> dict[str, torch.nn.Parameter]:
        return self._head

    def __call__(self, answers: Answers) -> torch.Tensor:
        student, teacher = answers.student_features, answers.teacher_features
        if student is None or teacher is None:
            raise ValueError("this objective needs the features of student and teacher, got None.")
        own = self.own
        probabilities = functional.softmax(teacher_logits(answers) / own.temperature, -1)
        wanted = functional.log_softmax(self.places(teacher) / own.subclass_temperature, -1)
        given = functional.linear(student, self._head["weight"], self._head["bias"])
        given = functional.log_softmax(given.unflatten(1, (-1, own.subclasses)), -1)
        within = functional.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)  # (rows, classes)
        return self.classes(answers) + own.alpha * (probabilities * within).sum(-1)

    def places(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, classes, subclasses) z of the teacher's `features` (rows, width)."""
        self._directions, self._offsets = self._directions.to(features.device), self._offsets.to(features.device)
        along = functional.linear(features, self._directions) - self._offsets
        return along.unflatten(1, (-1, self.own.subclasses))


@threadpool_limits.wrap(limits=1)  # computed again at a resume, on any number of cores, and the same to the bit
def subclass_projection(
    features: np.ndarray, classes: np.ndarray, classifier: np.ndarray, subclasses: int
) -> Projection:
    """Of each class, `subclasses` directions of a teacher's `features` (rows, width), where `classes` (rows,) are those
    that it chose and `classifier` (classes, width) its last layer.

    The principal directions of the class's rows in the null space of the classifier, turned at random, so that none
    has all the variance, and scaled to a variance of one. Where a class has fewer directions than that, its subclasses
    share them; where it has none, the directions are zero.
    """
    count, width = classifier.shape
    weights = classifier.astype(np.float64)
    unseen = np.eye(width) - np.linalg.pinv(weights) @ weights  # symmetric
    measured = features[np.linspace(0, len(features) - 1, min(len(features), _MEASURED_ROWS_AT_MOST)).astype(int)]
    least = _LEAST_VARIANCE * float(measured.var(0, dtype=np.float64).mean())
    draw = np.random.default_rng(_SEED)
    directions, offsets = np.zeros((count, subclasses, width)), np.zeros((count, subclasses))
    for index in range(count):
        rotation, _ = np.linalg.qr(draw.normal(size=(subclasses, subclasses)))
        rows = np.flatnonzero(classes == index)
        if len(rows) < 2:
            continue
        mean = features[rows].mean(0, dtype=np.float64)
        principal, variances = _principal_directions(features, rows, mean, unseen, subclasses)
        is_there = variances > least
        principal, variances = np.where(is_there, principal, 0), np.where(is_there, variances, 0)
        turned = principal @ rotation  # (width, subclasses)
        deviations = np.sqrt((variances[:, None] * rotation**2).sum(0))
        directions[index] = (turned / np.where(deviations > 0, deviations, np.inf)).T
        offsets[index] = directions[index] @ mean
    return Projection(
        directions.reshape(-1, width).astype(np.float32, order="C"), offsets.reshape(-1).astype(np.float32)
    )


def _principal_directions(
    features: np.ndarray, rows: np.ndarray, mean: np.ndarray, unseen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(width, count) the first principal directions of `rows` after the projection `unseen`, and their variances
    (count,); zeros where there are no more rows or columns to have any."""
    if len(rows) <= len(unseen):
        _, deviations, right = np.linalg.svd((features[rows] - mean) @ unseen, full_matrices=False)
        variances, vectors = deviations[:count] ** 2 / len(rows), right[:count].T
    else:
        covariance = np.zeros_like(unseen)
        for start in range(0, len(rows), _CHUNK_ROWS):
            centred = features[rows[start : start + _CHUNK_ROWS]] - mean
            covariance += centred.T @ centred
        variances, vectors = np.linalg.eigh(unseen @ (covariance / len(rows)) @ unseen)
        variances, vectors = variances[::-1][:count], vectors[:, ::-1][:, :count]
    # Which of two opposite directions a library gives is its own matter.
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    missing = count - len(variances)
    return np.pad(vectors, ((0, 0), (0, missing))), np.pad(variances, (0, missing))
