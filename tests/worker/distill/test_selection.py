import numpy as np
import pytest

from worker.distill.selection import high_loss_region, loss_mass, row_region, smooth, uniform_region


def clusters(count: int = 5, size: int = 60) -> np.ndarray:
    """(count * size, 2) points in well-separated heaps, heap by heap."""
    generator = np.random.default_rng(0)
    centres = np.column_stack([np.arange(count) * 20.0, np.zeros(count)])
    return (centres.repeat(size, 0) + generator.normal(size=(count * size, 2))).astype(np.float32)


class TestSmooth:
    def test_is_the_mean_over_the_row_and_its_neighbours(self) -> None:
        points = np.array([[0, 0], [1, 0], [2.5, 0], [9, 0]], np.float32)
        losses = np.array([0.0, 3.0, 6.0, 10.0], np.float32)
        np.testing.assert_allclose(smooth(losses, points, points, 1), [1.5, 1.5, 4.5, 8.0])

    def test_a_row_that_was_not_scored_is_like_those_around_it(self) -> None:
        points = clusters()
        losses = np.arange(5, dtype=np.float32).repeat(60)  # of one size within a heap
        scored = np.arange(0, 300, 3)
        np.testing.assert_allclose(smooth(losses[scored], points[scored], points, 10), losses)

    def test_fewer_rows_than_neighbours_are_enough(self) -> None:
        points = clusters()
        losses = np.array([1.0, 3.0], np.float32)
        np.testing.assert_allclose(smooth(losses, points[[0, 299]], points, 10), np.full(300, 2.0))

    def test_an_outlier_does_not_make_a_region(self) -> None:
        points = clusters()
        losses = np.full(len(points), 0.1, np.float32)
        losses[60:120] = 1.0  # a weak region
        losses[200] = 5.0  # one row of noise, of higher loss than any in the region
        region = high_loss_region(smooth(losses, points, points, 10), 0.15)
        assert 200 not in region.rows
        assert ((region.rows >= 60) & (region.rows < 120)).all()


class TestHighLossRegion:
    def test_a_planted_weak_cluster_receives_most_anchors(self) -> None:
        points = clusters()
        losses = np.random.default_rng(1).uniform(0, 0.2, len(points)).astype(np.float32)
        losses[120:180] += 2.0
        region = high_loss_region(smooth(losses, points, points, 10), 0.2)
        drawn = region.draw(1_000, np.random.default_rng(2))
        assert ((drawn >= 120) & (drawn < 180)).mean() > 0.9

    def test_rows_are_drawn_in_proportion_to_their_loss(self) -> None:
        region = high_loss_region(np.array([1.0, 0.0, 3.0]), 0.67)
        np.testing.assert_array_equal(region.rows, [0, 2])
        np.testing.assert_allclose(region.probabilities, [0.25, 0.75])

    def test_a_student_without_loss_leaves_every_row_alike(self) -> None:
        region = high_loss_region(np.zeros(4), 0.5)
        np.testing.assert_allclose(region.probabilities, [0.5, 0.5])

    @pytest.mark.parametrize("quantile", [0.01, 0.5, 1.0])
    def test_holds_the_share_it_is_asked_for_and_one_row_at_least(self, quantile: float) -> None:
        assert len(high_loss_region(np.arange(10.0), quantile).rows) == max(1, round(quantile * 10))


class TestControls:
    def test_anywhere_means_every_row_alike(self) -> None:
        region = uniform_region(np.arange(4))
        np.testing.assert_allclose(region.probabilities, np.full(4, 0.25))

    def test_loss_mass_is_the_mean_in_the_region(self) -> None:
        smoothed = np.array([1.0, 2.0, 9.0])
        assert loss_mass(smoothed, high_loss_region(smoothed, 0.34)) == 9.0


class TestRowRegion:
    def test_scored_rows_are_drawn_in_proportion_to_their_own_loss(self) -> None:
        region = row_region(np.array([1.0, np.nan, 3.0], np.float32))
        np.testing.assert_array_equal(region.rows, [0, 2])
        np.testing.assert_allclose(region.probabilities, [0.25, 0.75])

    def test_a_neighbour_that_was_not_scored_counts_as_the_others_in_the_mean(self) -> None:
        region = row_region(np.array([1.0, np.nan, 3.0], np.float32))
        assert region.weights is not None
        np.testing.assert_allclose(region.weights, [1.0, 2.0, 3.0])

    def test_a_student_without_loss_leaves_every_row_alike(self) -> None:
        region = row_region(np.zeros(4, np.float32))
        np.testing.assert_allclose(region.probabilities, np.full(4, 0.25))

    def test_an_outlier_is_a_place_of_its_own(self) -> None:
        losses = np.full(100, 0.1, np.float32)
        losses[7] = 10.0
        drawn = row_region(losses).draw(1_000, np.random.default_rng(2))
        assert 0.4 < (drawn == 7).mean() < 0.6
