import yaml

from assets.presets import preset_path
from pipelines.sandbox.config import SandboxConfig


def test_the_sandbox_serves_the_tiles_around_the_places_of_its_preset() -> None:
    places = yaml.safe_load(preset_path("sandbox").read_text())["ops"]["sample_points"]["config"]
    served = SandboxConfig()
    assert (places["num_places"], places["seed"]) == (served.num_places, served.places_seed)


def test_the_smallest_preset_asks_for_no_more_places_than_are_served() -> None:
    places = yaml.safe_load(preset_path("ci").read_text())["ops"]["sample_points"]["config"]
    assert places["num_places"] <= SandboxConfig().num_places
    assert places["seed"] == SandboxConfig().places_seed
