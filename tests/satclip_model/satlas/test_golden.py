"""Against outputs of the public implementation under weights by name; see tests/data/satlas_reference."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from satclip_model.satlas import EXPLORER_CONFIGS, SatlasModel
from tests.satclip_model.name_seeding import draw_uniform, seed_by_name

REFERENCE = Path(__file__).parents[2] / "data" / "satlas_reference"
KEPT = ("relative_coords_table", "logit_scale")


def read_golden(name: str) -> dict[str, Any]:
    with np.load(REFERENCE / f"satlas_{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def sample_images(golden: dict[str, Any]) -> torch.Tensor:
    stacked = draw_uniform(str(golden["tag"]), tuple(golden["input_shape"].tolist()))
    return stacked.unflatten(0, (4, 9))[None]


def seeded_model(name: str, backbone: torch.nn.Module | None = None) -> SatlasModel:
    model = SatlasModel(EXPLORER_CONFIGS[name])
    if backbone is not None:
        model.backbone = backbone
    own = model.state_dict()
    drawn = {
        key: tensor
        for key, tensor in own.items()
        if not key.endswith(KEPT) and not (backbone is not None and key.startswith("backbone."))
    }
    model.load_state_dict({**own, **seed_by_name(drawn)})
    return model.eval()


@pytest.fixture(scope="module")
def solar_farm() -> SatlasModel:
    return seeded_model("solar_farm")


@pytest.mark.parametrize("name", ["solar_farm", "wind_turbine"])
def test_parameters_have_the_names_and_shapes_of_the_public_weights(name: str) -> None:
    with torch.device("meta"):
        state = SatlasModel(EXPLORER_CONFIGS[name]).state_dict()
    assert {f"{key}:{tuple(tensor.shape)}" for key, tensor in state.items()} == set(read_golden(name)["keys"].tolist())


@torch.no_grad()
@pytest.mark.parametrize("for_inference", [False, True])
def test_segmentation_gives_the_probabilities_of_the_reference(solar_farm: SatlasModel, for_inference: bool) -> None:
    golden = read_golden("solar_farm")
    model = copy.deepcopy(solar_farm).for_inference() if for_inference else solar_farm
    (probabilities,) = model(sample_images(golden))
    np.testing.assert_allclose(probabilities, golden["out"], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("for_inference", [False, True])
def test_detection_gives_the_boxes_of_the_reference(solar_farm: SatlasModel, for_inference: bool) -> None:
    golden = read_golden("wind_turbine")
    model = seeded_model("wind_turbine", copy.deepcopy(solar_farm.backbone))
    model = model.for_inference() if for_inference else model
    ((found,),) = model(sample_images(golden))
    boxes, scores = torch.tensor(golden["out0_boxes"]), torch.tensor(golden["out0_scores"])
    overlap, match = box_iou(boxes, found["boxes"]).max(1)
    near = (boxes - found["boxes"][match]).abs().amax(1) < 0.05
    alike = (scores - found["scores"][match]).abs() < 1e-4
    same = found["labels"][match] == torch.tensor(golden["out0_labels"])
    assert int(((overlap > 0.9) & near & alike & same).sum()) >= 98
