"""Whether a teacher that does not name its classes has them in the dataset's order, by what it says of the rows."""

from dataclasses import dataclass

import numpy as np

# What another order has to bring, in accuracy, before this one is doubted.
_LEAST_GAIN = 0.2
# Beyond it the assignment takes seconds, and its table a gigabyte at 10,000.
_MOST_CLASSES = 2_000


@dataclass(frozen=True)
class BetterOrder:
    """`classes` has, for each of the teacher's outputs, the class that it stands for by the rows; both accuracies are
    shares of the rows."""

    classes: np.ndarray  # (classes,)
    accuracy_as_taken: float
    accuracy: float


def find_better_order(logits: np.ndarray, labels: np.ndarray) -> BetterOrder | None:
    """The order of a teacher's outputs by which its `logits` (rows, classes) fit `labels` (rows,) far better than by
    their own; None where there is none, or the classes are too many to say.

    What it would bring is measured on the half of the rows that did not choose it, by either half in turn: of few rows
    some order fits by chance.
    """
    classes = logits.shape[1]
    if classes > _MOST_CLASSES:
        return None
    predicted = logits.argmax(1)
    as_taken = float((predicted == labels).mean())
    rows = np.random.default_rng(0).permutation(len(labels))
    halves = rows[::2], rows[1::2]
    right = 0
    for chosen_by, measured_on in (halves, halves[::-1]):
        order = _best_order(predicted[chosen_by], labels[chosen_by], classes)
        right += int((order[predicted[measured_on]] == labels[measured_on]).sum())
    accuracy = right / len(labels)
    if accuracy - as_taken < _LEAST_GAIN:
        return None
    return BetterOrder(_best_order(predicted, labels, classes), as_taken, accuracy)


def _best_order(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) the class of each output, so that most rows are right; each class once."""
    # As in index.py: it is slow to import, and few teachers do not name their classes.
    from scipy.optimize import linear_sum_assignment

    counts = np.bincount(predicted * classes + labels, minlength=classes**2).reshape(classes, classes)
    _, order = linear_sum_assignment(counts, maximize=True)
    return np.asarray(order)
