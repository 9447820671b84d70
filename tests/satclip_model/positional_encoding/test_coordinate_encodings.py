import math
from pathlib import Path

import numpy as np
import pytest
import torch

from satclip_model.positional_encoding.coordinates import Cartesian3D, Direct, Wrap

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "satclip_reference" / "positional_encodings.npz"


@pytest.mark.parametrize(("name", "encoding"), [("direct", Direct()), ("cartesian3d", Cartesian3D()), ("wrap", Wrap())])
def test_equals_the_reference(name: str, encoding: torch.nn.Module) -> None:
    golden = np.load(GOLDEN)
    encoded = encoding(torch.tensor(golden["lonlat_deg"]))
    np.testing.assert_allclose(encoded.numpy(), golden[name], rtol=0, atol=1e-12)


def test_direct_subtracts_pi_from_the_radians() -> None:
    encoded = Direct()(torch.tensor([[180.0, -45.0]], dtype=torch.float64))[0]
    np.testing.assert_allclose(encoded.numpy(), [0.0, -1.25 * math.pi], atol=1e-15)


def test_cartesian_axes_point_to_the_gulf_of_guinea_the_indian_ocean_and_the_north_pole() -> None:
    lonlat_deg = torch.tensor([[0.0, 0.0], [90.0, 0.0], [123.0, 90.0]], dtype=torch.float64)
    np.testing.assert_allclose(Cartesian3D()(lonlat_deg).numpy(), np.eye(3), atol=1e-15)


def test_cartesian_vectors_have_unit_length_and_keep_angles() -> None:
    generator = torch.Generator().manual_seed(0)
    lonlat_deg = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([360, 180])
    vectors = Cartesian3D()(lonlat_deg - torch.tensor([180, 90]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-15)
    meridian = Cartesian3D()(torch.tensor([[20.0, -10.0], [20.0, 45.0]], dtype=torch.float64))
    assert float(meridian[0] @ meridian[1]) == pytest.approx(math.cos(math.radians(55.0)), abs=1e-15)


def test_wrap_keeps_the_longitude_at_the_poles() -> None:
    encoded = Wrap()(torch.tensor([[0.0, 90.0], [90.0, 90.0]], dtype=torch.float64))
    expected = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    np.testing.assert_allclose(encoded.numpy(), expected, atol=1e-15)
