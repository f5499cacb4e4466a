import numpy as np

from worker.distill.index import NeighborIndex


class TestNeighborsOfEach:
    def test_agrees_with_a_full_distance_table(self) -> None:
        points = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
        table = np.linalg.norm(points[None] - points[:, None], axis=2)
        np.fill_diagonal(table, np.inf)
        rows, distances = NeighborIndex(points).neighbors_of_each(5)
        np.testing.assert_array_equal(rows, np.argsort(table, 1)[:, :5])
        np.testing.assert_allclose(distances, np.sort(table, 1)[:, :5], atol=1e-4)

    def test_a_row_with_twins_is_never_its_own_neighbour(self) -> None:
        """Harm: interpolating a row towards itself synthesises the row."""
        points = np.zeros((30, 2), np.float32)
        rows, _ = NeighborIndex(points).neighbors_of_each(5)
        assert rows.shape == (30, 5)
        assert not (rows == np.arange(30)[:, None]).any()
