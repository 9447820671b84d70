import numpy as np
import pandas as pd
import pytest

from pipelines.drawing import to_png_bytes
from pipelines.evaluation.effective_resolution import Resolution
from pipelines.evaluation.localization import build_gallery, localize
from pipelines.evaluation.sphere import unit_vectors
from pipelines.report.encoder_figures import great_circle_pieces, localization_map, resolution_chart, similarity_map


@pytest.mark.parametrize(
    ("start", "end", "num_pieces"), [((170.0, 10.0), (-170.0, 12.0), 2), ((0.0, 0.0), (90.0, 0.0), 1)]
)
def test_lines_follow_great_circles_and_break_at_the_antimeridian(start, end, num_pieces):
    pieces = great_circle_pieces(start, end)
    assert len(pieces) == num_pieces
    np.testing.assert_allclose(pieces[0][0], start, atol=1e-9)
    np.testing.assert_allclose(pieces[-1][-1], end, atol=1e-9)
    assert max(np.abs(np.diff(piece[:, 0])).max(initial=0.0) for piece in pieces) < 5
    plane = np.cross(*unit_vectors(np.array([start, end])))
    np.testing.assert_allclose(unit_vectors(np.concatenate(pieces)) @ plane, 0.0, atol=1e-12)


def test_maps_tell_their_numbers():
    taken = np.array([[10.0, 50.0], [179.0, -20.0], [-60.0, -10.0]])
    gallery = build_gallery(unit_vectors, 500)
    found = localize(unit_vectors(taken)[[0, 1, 0]], taken, gallery)
    figure = localization_map(found, lambda places: places[:, 1] > 0)
    assert f"median error {found.median_error_km:,.0f} km" in figure.texts[1].get_text()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["farther (1)", "within 2,500 km (0)", "within 750 km (2)"]
    assert len(to_png_bytes(figure, 300)) > 1000
    one = similarity_map(unit_vectors(taken)[0], np.full((8, 8, 3), 0.2, np.float32), taken[0], gallery)
    assert "50°N, 10°E" in one.texts[1].get_text()
    assert len(to_png_bytes(one, 300)) > 1000


def test_the_resolution_chart_marks_what_is_known_only():
    board = pd.DataFrame(
        {
            "side_km": [10.0, 100.0, 1000.0],
            "accuracy": [0.5, 0.5, 0.9],
            "lower": [0.45, 0.45, 0.85],
            "upper": [0.55, 0.55, 0.95],
            "chance": [0.5] * 3,
        }
    )
    fall = pd.DataFrame({"distance_km": [1.0, 100.0], "mean": [1.0, 1.0], "lower_decile": 1.0, "upper_decile": 1.0})
    labels = [
        [text.get_text() for text in axes.get_legend().get_texts()]
        for axes in resolution_chart(Resolution(board, fall)).axes
    ]
    assert "finest side told apart: 1,000 km" in labels[0]
    assert labels[1] == ["mean cosine"]


def test_half_of_the_similarity_lies_between_bins():
    fall = pd.DataFrame({"distance_km": [10.0, 1000.0, 10_000.0], "mean": [1.0, 0.0, 0.0]})
    assert Resolution(pd.DataFrame(), fall).half_similarity_km == pytest.approx(100.0)
