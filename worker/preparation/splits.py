"""The validation split that is made when none was uploaded."""

import numpy as np

VALIDATION_SHARE = 0.1
# One fixed seed: the same upload gives the same split, so jobs on it stay comparable.
SPLIT_SEED = 20_260_105


def validation_mask(labels: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Choose about a tenth of each class, at least one row and never its last: True marks validation rows.

    Args:
        labels: class of each row, integers (rows,).
        texts: fingerprint of each row's text, uint64 (rows,). Rows whose text occurs more than once are
            taken last, so that a validation row seldom has its twin in training.
    """
    random = np.random.default_rng(SPLIT_SEED)
    _, inverse, counts = np.unique(texts, return_inverse=True, return_counts=True)
    is_repeated = counts[inverse] > 1
    mask = np.zeros(len(labels), dtype=bool)
    # Sorted once: to look through all rows for each of thousands of classes takes minutes.
    by_class = np.argsort(labels, kind="stable")
    for of_class in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        rows = random.permutation(of_class)
        rows = rows[np.argsort(is_repeated[rows], kind="stable")]
        wanted = max(1, round(VALIDATION_SHARE * len(rows)))
        mask[rows[: min(wanted, len(rows) - 1)]] = True
    return mask
