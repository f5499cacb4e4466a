import numpy as np
import pytest

from worker.distill.index import MapIndex, NeighborIndex


def neighbors_of_each(kind: type, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if kind is NeighborIndex:
        return NeighborIndex(points).neighbors_of_each(k)
    return MapIndex(points).neighbors_of(np.arange(len(points)), k)


@pytest.mark.parametrize("kind", [NeighborIndex, MapIndex])
class TestNeighbors:
    def test_agree_with_a_full_distance_table(self, kind: type) -> None:
        points = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        table = np.linalg.norm(points[None] - points[:, None], axis=2)
        np.fill_diagonal(table, np.inf)
        rows, distances = neighbors_of_each(kind, points, 5)
        np.testing.assert_array_equal(rows, np.argsort(table, 1)[:, :5])
        np.testing.assert_allclose(distances, np.sort(table, 1)[:, :5], atol=1e-4)

    def test_a_row_with_twins_is_never_its_own_neighbour(self, kind: type) -> None:
        """Harm: interpolating a row towards itself synthesises the row."""
        rows, _ = neighbors_of_each(kind, np.zeros((30, 2), np.float32), 5)
        assert rows.shape == (30, 5)
        assert not (rows == np.arange(30)[:, None]).any()

    def test_one_neighbour_is_a_column(self, kind: type) -> None:
        rows, _ = neighbors_of_each(kind, np.array([[0, 0], [1, 0], [3, 0]], np.float32), 1)
        np.testing.assert_array_equal(rows, [[1], [0], [1]])
