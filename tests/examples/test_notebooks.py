"""The notebooks run from top to bottom, without the network, on a small checkpoint."""

import base64
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib import image
from nbclient import NotebookClient

from satclip_model import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig, build_location_encoder
from satclip_model.checkpoint.safetensors import write_safetensors
from tests.pipelines.evaluation.methods.published import write_csp, write_gps2vec
from tests.pipelines.ground_cover.labelled_patches import write_model, write_scene

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=6),
        network=SirenConfig(hidden_dim=16),
        embedding_dim=12,
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_safetensors(path, build_location_encoder(config, seed=2))
    return path


@pytest.fixture
def execute(model, tmp_path, monkeypatch):
    """Runs a notebook in an empty folder."""
    monkeypatch.setenv("SATCLIP_EXAMPLE_MODEL", str(model))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def run(name):
        client = NotebookClient(
            nbformat.read(REPOSITORY / "examples" / f"{name}.ipynb", as_version=4),
            kernel_name="python3",
            timeout=120,
            resources={"metadata": {"path": str(tmp_path)}},
        )
        return [cell for cell in client.execute().cells if cell.cell_type == "code"]

    return run


def results(cells):
    return [output["data"]["text/plain"] for cell in cells for output in cell.outputs if "data" in output]


def image_of(cells, tmp_path):
    (figure,) = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    path = tmp_path / "map.png"
    path.write_bytes(base64.b64decode(figure))
    return image.imread(path)


def complaints(cells):
    texts = [output["text"] for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    return [text for text in texts if "IProgress not found" not in text]  # ipywidgets need not be installed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.network
@pytest.mark.slow
def test_simple_usage(execute):
    cells = execute("A01_simple_usage")
    assert complaints(cells) == []
    logits, towers, places, difference = results(cells)
    assert logits.startswith("(torch.Size([4, 4]), tensor([1.")
    assert towers == "(torch.Size([4, 128]), torch.Size([4, 128]), torch.Size([4, 4]))"
    assert places == "((4, 128), (2, 3, 128))"
    assert float(difference.removeprefix("np.float32(").removesuffix(")")) < 1e-6


@pytest.mark.network
@pytest.mark.slow
def test_hub_usage(execute, tmp_path):
    cells = execute("A02_hub_usage")
    assert complaints(cells) == []
    shape, neighbors, _ = results(cells)
    assert shape == "(16, 12)"
    assert neighbors.count("Berlin") >= 1
    pixels = image_of(cells, tmp_path)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 1000


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.real_data
def test_air_temperature(execute, tmp_path, monkeypatch, shared_data):
    monkeypatch.setenv("SATCLIP_SHARED_DATA", str(shared_data))
    cells = execute("B01_air_temperature")
    assert complaints(cells) == []
    table, *_, error = results(cells)
    assert "air_temperature" in table
    assert "blocks 10°" in table
    assert 1.0 < float(error) < 12.0
    assert min(image_of(cells, tmp_path).shape[:2]) > 300


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.real_data
def test_image_localization(execute, tmp_path, monkeypatch, shared_data):
    towers = REPOSITORY / "tests" / "data" / "satclip_reference" / "small_clip_vit_l10.ckpt"
    monkeypatch.setenv("SATCLIP_EXAMPLE_TOWERS", str(towers))
    monkeypatch.setenv("SATCLIP_EXAMPLE_PATCHES", str(shared_data / "s2_100k_sample"))
    cells = execute("B02_image_localization")
    assert complaints(cells) == []
    shape, table, _ = results(cells)
    assert shape.startswith("(16, ")
    assert "by chance" in table
    assert min(image_of(cells, tmp_path).shape[:2]) > 300


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"), [("C01_csp", "(6, 256)"), ("C02_geoclip", "(6, 512)"), ("C03_gps2vec", "(6, 2000)")]
)
def test_baselines(execute, tmp_path, monkeypatch, name, shape):
    monkeypatch.setenv("SATCLIP_EXAMPLE_CSP", str(write_csp(tmp_path / "grid_gelu.pth.tar")))
    monkeypatch.setenv("SATCLIP_EXAMPLE_GPS2VEC", str(write_gps2vec(tmp_path / "models_tag", "33 U")))
    cells = execute(name)
    found, table = results(cells)
    assert found == shape
    assert "Potsdam" in table


@pytest.mark.network
@pytest.mark.slow
def test_ground_cover(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("SATCLIP_EXAMPLE_GROUND_COVER", str(write_model(tmp_path / "ground_cover.ckpt")))
    monkeypatch.setenv("SATCLIP_EXAMPLE_SCENE", str(write_scene(tmp_path / "scene.tif")))
    cells = execute("D01_ground_cover")
    assert complaints(cells) == []
    agreement, shares, _, nearest, two = results(cells)
    assert "Warm forest" in agreement
    assert "Cold forest" in shares
    assert "Any trees" in nearest
    assert "'Any bare ground': 0." in two
    assert min(image_of(cells, tmp_path).shape[:2]) > 300
