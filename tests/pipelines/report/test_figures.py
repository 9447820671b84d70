import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.drawing import sample_map, save_png, to_jpeg_bytes, to_png_bytes, to_preview_bytes
from pipelines.embeddings.grid import GlobalGrid, land_grid
from pipelines.evaluation.scores import COLUMNS
from pipelines.report.figures import (
    choose_gallery,
    embedding_map,
    loss_curves,
    patch_gallery,
    place_captions,
    principal_components,
    read_true_color,
    scores_chart,
)

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def is_land(lonlat_deg):
    return np.abs(lonlat_deg[:, 0]) < 60


@dataclass(frozen=True)
class Patches:
    places: pd.DataFrame
    bands: tuple[str, ...] = BANDS

    def read_dn(self, index):
        dn = np.arange(12, dtype=np.uint16)[:, None, None] * 100 + 1500 + index
        return np.broadcast_to(dn, (12, 16, 16)).copy()


@pytest.fixture
def places():
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "lon_deg": rng.uniform(-60, 60, 40),
            "lat_deg": rng.uniform(-56, 84, 40),
            "valid": np.arange(40) % 5 > 0,
            "boa_add_offset": np.where(np.arange(40) % 2, -1000, 0),
            "datetime": pd.Timestamp("2022-07-04 10:00", tz="UTC"),
        }
    )


def scores_of(values):
    rows = []
    for task, task_type, metric in (("elevation", "regression", "r2"), ("biome", "classification", "accuracy")):
        for split, cell_deg in (("random", np.nan), ("blocks", 10.0)):
            for model, value in values.items():
                row = dict.fromkeys(COLUMNS, "x") | {
                    "task": task, "task_type": task_type, "metric_name": metric, "split": split, "cell_deg": cell_deg,
                    "metric_value": value, "ci_lower": value - 0.1, "ci_upper": value + 0.1, "seed": 0,
                    "model_name": model, "fold_name": "",
                }  # fmt: skip
                rows.append(row)
    return pd.DataFrame(rows)


def pixels(figure, width_px=600):
    return np.asarray(Image.open(io.BytesIO(to_png_bytes(figure, width_px))).convert("RGB"))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def test_the_gallery_takes_valid_places_from_all_latitudes(places):
    chosen = choose_gallery(places, 8, np.random.default_rng(0))
    lat_deg = places["lat_deg"].to_numpy()
    assert len(set(chosen.tolist())) == 8
    assert places["valid"].to_numpy()[chosen].all()
    assert (np.diff(lat_deg[chosen]) < 0).all()
    valid = np.sort(lat_deg[places["valid"].to_numpy(dtype=bool)])
    assert lat_deg[chosen[0]] >= valid[-4]
    assert lat_deg[chosen[-1]] <= valid[3]
    assert len(choose_gallery(places, 100, np.random.default_rng(0))) == 32
    assert len(choose_gallery(places.assign(valid=False), 8, np.random.default_rng(0))) == 0


def test_true_color_is_red_green_blue_without_offset(places):
    true_color = read_true_color(Patches(places), [2, 3])
    assert true_color.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(true_color[0, 0, 0], [0.1802, 0.1702, 0.1602], rtol=1e-6)
    np.testing.assert_allclose(true_color[1, 0, 0], [0.0803, 0.0703, 0.0603], rtol=1e-6)


def test_the_gallery_draws_every_patch_with_its_caption_and_states_the_stretch(places):
    rng = np.random.default_rng(1)
    true_color = rng.uniform(0, 0.3, (8, 16, 16, 3)).astype(np.float32)
    figure = patch_gallery(true_color, place_captions(places, range(8)))
    assert len(figure.axes) == 8
    assert any("reflectance 0 to 0.30" in text for text in texts(figure))
    assert sum("2022-07-04" in text for text in texts(figure)) == 8


def test_one_stretch_serves_all_patches():
    dark, bright = np.full((8, 8, 3), 0.05), np.full((8, 8, 3), 0.2)
    figure = patch_gallery(np.stack([dark, bright]).astype(np.float32), ["dark", "bright"])
    shown = [axes.images[0].get_array().mean() for axes in figure.axes]
    assert shown[0] < 0.6 * shown[1]


def test_a_gallery_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there are 1 captions"):
        patch_gallery(np.zeros((0, 8, 8, 3), dtype=np.float32), ["caption"])


def test_captions_name_hemispheres_and_the_day():
    places = pd.DataFrame(
        {"lon_deg": [-70.5, 0.0], "lat_deg": [-12.345, 51.4778], "datetime": [pd.Timestamp("2021-02-03"), pd.NaT]}
    )
    assert place_captions(places, [0, 1]) == ["12.35°S, 70.5°W\n2021-02-03", "51.48°N, 0°"]


def test_the_map_counts_valid_and_invalid_places(places):
    figure = sample_map(places, is_land)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["valid patch (32)", "no valid patch (8)"]


def test_loss_curves_mark_the_best_validation_epoch():
    history = pd.DataFrame(
        {"epoch": [0, 0, 1, 1, 2], "train_loss": [5.0, 4.0, 3.0, 2.5, 2.0], "val_loss": [4.0, np.nan, 3.1, np.nan, 3.4]}
    )
    figure = loss_curves(history, chance_loss=np.log(256))
    assert "best 3.100, epoch 1" in texts(figure)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [4.5, 2.75, 2.0])
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [4.0, 3.1, 3.4])


def test_loss_curves_without_validation_are_drawn():
    figure = loss_curves(pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, 1.0], "val_loss": [np.nan, np.nan]}))
    assert len(figure.axes[0].lines) == 1


def test_principal_components_are_ordered_and_their_sign_is_fixed():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    embeddings = rng.normal(size=(500, 6)) * [5, 3, 2, 0.1, 0.1, 0.1] @ axes.T + 4
    components, shares = principal_components(embeddings)
    again, _ = principal_components(embeddings[::-1])
    np.testing.assert_allclose(again[::-1], components, atol=1e-9)
    np.testing.assert_allclose(shares, np.array([25, 9, 4]) / 38.03, rtol=0.15)
    np.testing.assert_allclose(np.corrcoef(components.T), np.eye(3), atol=1e-9)
    loadings = np.linalg.lstsq(embeddings - embeddings.mean(axis=0), components, rcond=None)[0]
    assert (loadings[np.abs(loadings).argmax(axis=0), range(3)] > 0).all()


def test_the_embedding_map_colors_land_by_place():
    grid = GlobalGrid(10.0, (-60.0, 80.0))
    lonlat_deg = land_grid(10.0, is_land, (-60.0, 80.0))
    embeddings = np.column_stack([3 * lonlat_deg[:, 0], lonlat_deg[:, 1], np.zeros(len(lonlat_deg))])
    figure = embedding_map(lonlat_deg, embeddings, grid)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (14, 36, 4)
    assert (shown[..., 3] == 1).sum() == len(lonlat_deg)
    assert (np.diff(shown[7, 12:24, 0]) >= 0).all()
    assert shown[7, 23, 0] == 1


def test_the_chart_has_a_panel_per_task_and_a_bar_per_model_and_split():
    figure = scores_chart(scores_of({"satclip": 0.6, "sincos": 0.3, "harmonics": -4.0}), "satclip")
    assert len(figure.axes) == 2
    assert len(figure.axes[0].patches) == 6
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["satclip", "sin/cos", "harmonics alone"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal"]
    assert sum("-4.00 (off the axis)" in text for text in texts(figure)) == 4


def test_pictures_have_the_width_asked_for_and_equal_bytes(places, tmp_path):
    figure = sample_map(places, is_land)
    assert pixels(figure, 1200).shape[1] == 1200
    assert to_png_bytes(figure, 700) == to_png_bytes(sample_map(places, is_land), 700)
    save_png(tmp_path / "map.png", figure, 700)
    assert (tmp_path / "map.png").read_bytes() == to_png_bytes(figure, 700)


def test_previews_stay_small_even_for_noise():
    noise = np.random.default_rng(0).uniform(0, 0.3, (6, 64, 64, 3)).astype(np.float32)
    figure = patch_gallery(noise, ["noise"] * 6)
    preview = to_preview_bytes(figure)
    assert len(preview) <= 100_000 < len(to_png_bytes(figure, 900))
    assert Image.open(io.BytesIO(preview)).width >= 200
    assert Image.open(io.BytesIO(to_jpeg_bytes(figure, 600))).format == "JPEG"
