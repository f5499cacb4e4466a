import numpy as np
import pytest

from worker.distill import projection as projections
from worker.distill.projection import Projection, fit_coordinates
from worker.distill.rows import SyntheticRows, weighted_means
from worker.distill.selection import Region, uniform_region
from worker.distill.synthesis import Points, Synthesizer


def projection(rows: int = 200, width: int = 16) -> Projection:
    """Points on a curved sheet, so that the map (its parameters) and the vectors fit together."""
    generator = np.random.default_rng(0)
    coordinates = generator.uniform(-1, 1, (rows, 2)).astype(np.float32)
    lift = generator.normal(size=(4, width)).astype(np.float32)
    curved = np.column_stack([coordinates, np.sin(2 * coordinates)])
    return Projection((curved @ lift).astype(np.float32), coordinates)


def shifts(synthesizer: Synthesizer, points: Points) -> np.ndarray:
    rows = SyntheticRows(points.anchors, points.sources, points.weights, np.zeros((len(points), 1), np.float32))
    return rows.shifts(np.arange(len(points)), synthesizer.projection.vectors)


def inverted(synthesizer: Synthesizer, on_map: np.ndarray) -> np.ndarray:
    return weighted_means(synthesizer.projection.vectors, *synthesizer.invert(on_map))


def draw(seed: int, count: int = 300):  # type: ignore[no-untyped-def]
    synthesizer = Synthesizer(projection(), neighbors=8)
    region = uniform_region(np.arange(200))
    return synthesizer, synthesizer.draw(region, count, np.random.default_rng(seed))


class TestDraw:
    def test_each_point_lies_between_its_row_and_one_of_the_rows_neighbours(self) -> None:
        synthesizer, points = draw(seed=1)
        starts, ends = points.drawn.T
        coordinates = synthesizer.projection.coordinates
        table = np.linalg.norm(coordinates[None] - coordinates[:, None], axis=2)
        np.fill_diagonal(table, np.inf)
        nearest = np.argsort(table, 1)[:, :8]
        assert all(end in nearest[start] for start, end in points.drawn)
        along = coordinates[ends] - coordinates[starts]
        offset = points.coordinates - coordinates[starts]
        cross = along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0]
        share = (along * offset).sum(1) / (along**2).sum(1)
        np.testing.assert_allclose(cross, 0, atol=1e-5)
        assert (share > -1e-4).all()
        assert (share < 1 + 1e-4).all()

    def test_one_seed_gives_one_set(self) -> None:
        _, first = draw(seed=1)
        _, second = draw(seed=1)
        _, other = draw(seed=2)
        for name in ("anchors", "sources", "weights", "coordinates", "drawn", "distances"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert not np.array_equal(first.weights, other.weights)

    def test_gives_as_many_points_as_asked(self) -> None:
        _, points = draw(seed=1, count=123)
        assert len(points) == 123

    def test_gives_as_many_where_they_are_more_than_it_holds_at_a_time(self) -> None:
        synthesizer, points = draw(seed=1, count=9_000)
        assert len(points) == 9_000
        np.testing.assert_allclose(np.linalg.norm(shifts(synthesizer, points), axis=1), points.distances, atol=1e-5)

    def test_none_where_none_are_asked_for(self) -> None:
        _, points = draw(seed=1, count=0)
        assert len(points) == 0
        assert points.sources.shape == (0, 8)

    def test_a_point_is_near_the_row_that_lends_its_tokens(self) -> None:
        synthesizer, points = draw(seed=1)
        own = np.linalg.norm(shifts(synthesizer, points), axis=1)
        np.testing.assert_allclose(own, points.distances, atol=1e-5)
        vectors = weighted_means(synthesizer.projection.vectors, points.sources, points.weights)
        to_all = np.linalg.norm(synthesizer.projection.vectors[None] - vectors[:, None], axis=2)
        assert (own <= to_all.min(1) + 1e-5).mean() > 0.9

    def test_points_far_from_any_real_row_are_refused(self) -> None:
        """Harm: the teacher labels vectors that no text could give, and the student learns them."""
        flat = projection()
        torn = flat.vectors.copy()
        torn[:1] *= 1_000  # a row that has neighbours on the map and nowhere near in input space
        synthesizer = Synthesizer(Projection(torn, flat.coordinates), neighbors=8)
        points = synthesizer.draw(uniform_region(np.arange(200)), 300, np.random.default_rng(0))
        assert np.linalg.norm(shifts(synthesizer, points), axis=1).max() <= synthesizer.keep_distance + 1e-5
        assert synthesizer.keep_distance < 1_000


class TestInvert:
    def test_a_point_on_a_real_row_comes_back_close_to_its_vector(self) -> None:
        synthesizer = Synthesizer(projection(), neighbors=8)
        vectors = inverted(synthesizer, synthesizer.projection.coordinates)
        error = np.linalg.norm(vectors - synthesizer.projection.vectors, axis=1)
        spread = np.linalg.norm(synthesizer.projection.vectors, axis=1).mean()
        assert np.median(error) < 0.1 * spread

    def test_a_point_far_from_the_data_is_finite(self) -> None:
        synthesizer = Synthesizer(projection(), neighbors=8)
        vectors = inverted(synthesizer, np.array([[1e6, 1e6]], np.float32))
        assert np.isfinite(vectors).all()

    def test_twins_do_not_divide_by_zero(self) -> None:
        twins = Projection(np.ones((20, 4), np.float32), np.zeros((20, 2), np.float32))
        vectors = inverted(Synthesizer(twins, neighbors=5), np.zeros((1, 2), np.float32))
        np.testing.assert_allclose(vectors, 1.0)


def heaps(rows: int) -> np.ndarray:
    """Three far from each other, each of so many rows."""
    generator = np.random.default_rng(0)
    centres = np.repeat(generator.normal(size=(3, 16)) * 20, rows, 0)
    return (centres + generator.normal(size=centres.shape)).astype(np.float32)


def spread_of(coordinates: np.ndarray, rows: int) -> float:
    """How far from its middle a heap of so many rows reaches on the map."""
    by_heap = coordinates.reshape(3, rows, 2)
    return float(np.linalg.norm(by_heap - by_heap.mean(1, keepdims=True), axis=2).max())


def assert_apart(coordinates: np.ndarray, rows: int) -> None:
    centres = coordinates.reshape(3, rows, 2).mean(1)
    gaps = [np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > spread_of(coordinates, rows)


class TestFitCoordinates:
    def test_the_same_vectors_give_the_same_map(self) -> None:
        vectors = projection().vectors
        np.testing.assert_array_equal(fit_coordinates(vectors), fit_coordinates(vectors))

    def test_heaps_stay_apart_on_the_map(self) -> None:
        assert_apart(fit_coordinates(heaps(50)), 50)

    def test_of_too_many_rows_a_sample_is_fitted_and_the_others_lie_among_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: on a map of a large dataset a row lies where other rows are, and is given their words."""
        fits: list[tuple[np.ndarray, np.ndarray]] = []

        def umap(vectors: np.ndarray) -> np.ndarray:
            fits.append((vectors, fit(vectors)))
            return fits[-1][1]

        fit = projections._umap
        monkeypatch.setattr(projections, "_umap", umap)
        monkeypatch.setattr(projections, "_FIT_ROWS_AT_MOST", 100)
        monkeypatch.setattr(projections, "_CHUNK_ROWS", 32)
        vectors = heaps(100)
        coordinates = fit_coordinates(vectors)
        assert_apart(coordinates, 100)
        np.testing.assert_array_equal(coordinates, fit_coordinates(vectors))
        ((sample, fitted), _) = fits
        assert len(sample) == 100
        places = (vectors[None] == sample[:, None]).all(2).argmax(1)
        assert len({*places}) == 100
        # By single precision a row is not quite at no distance from itself.
        np.testing.assert_allclose(coordinates[places], fitted, atol=0.05 * spread_of(coordinates, 100))

    def test_a_handful_of_rows_is_laid_out_without_umap(self) -> None:
        assert fit_coordinates(np.eye(4, dtype=np.float32)).shape == (4, 2)


class TestDrawPairs:
    def test_a_neighbour_is_drawn_in_proportion_to_its_weight(self) -> None:
        synthesizer = Synthesizer(projection(), neighbors=4)
        weights = np.ones(200)
        nearby, _ = synthesizer._index.neighbors_of(np.array([17]), 4)
        weights[nearby[0]] = [1.0, 0.0, 5.0, 2.0]
        region = Region(np.array([17]), np.ones(1), weights)
        starts, ends = synthesizer.draw_pairs(region, 8_000, np.random.default_rng(0))
        assert set(starts) == {17}
        shares = [(ends == row).mean() for row in nearby[0]]
        np.testing.assert_allclose(shares, [0.125, 0.0, 0.625, 0.25], atol=0.02)

    def test_neighbours_are_alike_where_the_region_weighs_none(self) -> None:
        synthesizer = Synthesizer(projection(), neighbors=4)
        _, ends = synthesizer.draw_pairs(Region(np.array([17]), np.ones(1)), 8_000, np.random.default_rng(0))
        _, counts = np.unique(ends, return_counts=True)
        np.testing.assert_allclose(counts / 8_000, np.full(4, 0.25), atol=0.02)
