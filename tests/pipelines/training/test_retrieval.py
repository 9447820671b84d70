import numpy as np
import pytest

from pipelines.training.retrieval import great_circle_km, score_retrieval


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def random_places(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, num), rng.uniform(-80, 80, num)], axis=1)


def test_perfect_embeddings_score_one() -> None:
    embeddings = np.eye(50)
    scores = score_retrieval(embeddings, embeddings, random_places(50, 0), np.random.default_rng(0), gallery_size=20)
    assert (scores.recall_at_1, scores.recall_at_1_lower, scores.recall_at_10) == (1.0, 1.0, 1.0)
    assert (scores.mean_rank, scores.median_error_km) == (1.0, 0.0)
    assert (scores.gallery_size, scores.num_galleries, scores.chance_recall_at_1) == (20, 20, 0.05)


def test_unrelated_embeddings_score_chance() -> None:
    rng = np.random.default_rng(1)
    images, locations = unit(rng.standard_normal((800, 16))), unit(rng.standard_normal((800, 16)))
    scores = score_retrieval(images, locations, random_places(800, 1), rng, gallery_size=100, num_galleries=50)
    assert scores.recall_at_1 == pytest.approx(0.01, abs=0.008)
    assert scores.recall_at_10 == pytest.approx(0.1, abs=0.03)
    assert scores.mean_rank == pytest.approx(50.5, abs=3)
    assert scores.recall_at_1_lower < 0.01 < scores.recall_at_1_upper
    assert scores.median_error_km > 5000


def test_collapsed_embeddings_score_nothing() -> None:
    embeddings = np.ones((30, 4)) / 2
    scores = score_retrieval(embeddings, embeddings, random_places(30, 2), np.random.default_rng(0))
    assert (scores.recall_at_1, scores.recall_at_10, scores.mean_rank) == (0.0, 0.0, 30.0)


def test_scores_of_a_gallery_worked_by_hand() -> None:
    # Image 0 prefers location 1 (rank 2), image 1 is right (rank 1), image 2 puts its own last (rank 3).
    images = np.array([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0]])
    lonlat_deg = np.array([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0]])
    scores = score_retrieval(images, np.eye(3), lonlat_deg, np.random.default_rng(0), gallery_size=256)
    assert scores.gallery_size == 3
    assert scores.recall_at_1 == pytest.approx(1 / 3)
    assert scores.mean_rank == pytest.approx(2.0)
    quarter_km = np.pi / 2 * 6371.0088
    assert scores.median_error_km == pytest.approx(quarter_km)
    assert scores.num_galleries == 1


def test_interval_covers_and_narrows_with_more_places() -> None:
    widths = []
    for num in (100, 1600):
        rng = np.random.default_rng(num)
        images = np.eye(num)
        locations = images.copy()
        wrong = rng.permutation(num)[: num // 2]
        locations[wrong] = np.roll(locations[wrong], 1, axis=0)
        scores = score_retrieval(images, locations, random_places(num, 3), rng, gallery_size=50, num_galleries=300)
        assert scores.recall_at_1_lower < scores.recall_at_1 < scores.recall_at_1_upper
        widths.append(scores.recall_at_1_upper - scores.recall_at_1_lower)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_same_generator_gives_the_same_scores() -> None:
    rng = np.random.default_rng(4)
    images = unit(rng.standard_normal((60, 5)))
    locations = unit(images + 0.7 * rng.standard_normal((60, 5)))
    first, again = (
        score_retrieval(images, locations, random_places(60, 5), np.random.default_rng(8), gallery_size=20)
        for _ in range(2)
    )
    assert first == again


def test_great_circle_distances() -> None:
    start = np.array([[0.0, 0.0], [179.5, 0.0], [10.0, 89.0], [5.0, -20.0]])
    end = np.array([[90.0, 0.0], [-179.5, 0.0], [-170.0, 89.0], [5.0, -20.0]])
    degree_km = 6371.0088 * np.pi / 180
    np.testing.assert_allclose(great_circle_km(start, end), [90 * degree_km, degree_km, 2 * degree_km, 0], rtol=1e-9)


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2, 4\)"):
        score_retrieval(np.ones((3, 4)), np.ones((2, 4)), np.zeros((3, 2)), np.random.default_rng(0))
