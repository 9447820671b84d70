"""A small world whose every pixel says where it belongs, and the dataset that an undisturbed build makes of it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.patches.config import PatchConfig
from pipelines.patches.dataset import read_dataset_record
from pipelines.patches.store import dataset_folder, read_store
from pipelines.sampling.manifest import read_sampling_manifest
from tests.drill.build import PATCH_SIZE_PX, Job
from tests.drill.schedule import MAX_ATTEMPTS
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import BANDS, CoordinateScene, SclBlock, collection
from tests.loopback.stub_stac import StubStac

CLOUD = 9
CLOUDY = CoordinateScene(
    32632, 399960, 5300040, "32TLT", cloud_cover_percent=1.0, scl_blocks=[SclBlock(0, 0, 300, 549, CLOUD)]
)
WITHOUT_B05 = replace(
    CLOUDY, acquired=datetime(2022, 7, 1, 10, tzinfo=UTC), cloud_cover_percent=7.0, scene_number=1, scl_blocks=()
)
CLEAR_LAST = replace(
    WITHOUT_B05, acquired=datetime(2022, 8, 1, 10, tzinfo=UTC), cloud_cover_percent=12.0, scene_number=2
)
DAMAGED_B11 = CoordinateScene(32722, 600000, 7400020, "22KFU", cloud_cover_percent=1.0, scene_number=3)
CLEAR_SECOND = replace(
    DAMAGED_B11, acquired=datetime(2022, 7, 1, 10, tzinfo=UTC), cloud_cover_percent=7.0, scene_number=4
)
HALF_EMPTY = CoordinateScene(
    32756, 300000, 6300040, "56HKH", cloud_cover_percent=2.0, scene_number=5, scl_blocks=[SclBlock(0, 0, 549, 200, 0)]
)
SCENES = (CLOUDY, WITHOUT_B05, CLEAR_LAST, DAMAGED_B11, CLEAR_SECOND, HALF_EMPTY)
PLACES = (
    *(CLOUDY.lonlat_at(100, 150), CLOUDY.lonlat_at(900, 800)),
    *(DAMAGED_B11.lonlat_at(1000, 900), HALF_EMPTY.lonlat_at(500, 900)),
    *((5.0, 5.0), CLOUDY.lonlat_at(480, 1000), CLOUDY.lonlat_at(1000, 100), DAMAGED_B11.lonlat_at(20, 30)),
    *(HALF_EMPTY.lonlat_at(300, 100), HALF_EMPTY.lonlat_at(1060, 700)),
    *(DAMAGED_B11.lonlat_at(700, 333), CLOUDY.lonlat_at(700, 520)),
    *((100.0, 0.0), CLOUDY.lonlat_at(33, 1090)),
)
"""In four shards; two places lie where there is no scene, one in the empty half of the only scene it has."""


@dataclass(frozen=True)
class Outcome:
    """What a build leaves, decoded: nothing in it may depend on what went wrong."""

    plan_id: str
    sidecars: pd.DataFrame
    places: pd.DataFrame
    replay_manifest: pd.DataFrame
    record: dict[str, Any]
    pixels: NDArray[np.uint16]

    def assert_same(self, other: "Outcome") -> None:
        """Equal in every row and pixel."""
        assert self.plan_id == other.plan_id
        for name in ("sidecars", "places", "replay_manifest"):
            pd.testing.assert_frame_equal(getattr(self, name), getattr(other, name), obj=name)
        assert self.record == other.record
        assert np.array_equal(self.pixels, other.pixels)

    def assert_true(self) -> None:
        """Every patch holds the coordinates that its row claims, every other row is empty."""
        scenes = {scene.item_id: scene for scene in SCENES}
        for index, row in self.places.iterrows():
            if not row.valid:
                assert not self.pixels[index].any(), f"place {row.place_id} has pixels but no patch"
                continue
            expected = scenes[row.item_id].expected_patch(row.row_px, row.col_px, PATCH_SIZE_PX)
            wrong = [band for n, band in enumerate(BANDS) if not np.array_equal(self.pixels[index, n], expected[n])]
            assert not wrong, f"place {row.place_id}: bands {wrong} do not hold the pixels of {row.item_id}"


def read_outcome(root: Path) -> Outcome:
    """What was built in a workspace."""
    manifest = read_sampling_manifest(root / "sampling")
    folder = dataset_folder(root, manifest.plan_id)
    store, record = read_store(folder), read_dataset_record(folder)
    numbers = range(store.schema.num_shards)
    return Outcome(
        plan_id=manifest.plan_id,
        sidecars=pd.concat([store.read_sidecar(shard) for shard in numbers], ignore_index=True),
        places=pd.read_parquet(folder / "places.parquet"),
        replay_manifest=pd.read_parquet(folder / "replay_manifest.parquet"),
        record={name: value for name, value in vars(record).items() if name not in ("commit", "packages")},
        pixels=np.concatenate([store.read_shard(shard) for shard in numbers]),
    )


class World:
    """Scenes behind a server; a STAC API and a token endpoint of the same origin."""

    def __init__(self, server: CogServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.file_patterns = [
            f"*{scene.file_name(band)}"
            for scene, bands in ((scene, ("SCL", "B02", "B05", "B09", "B11", "B12")) for scene in SCENES)
            for band in bands
            if (scene, band) not in ((WITHOUT_B05, "B05"), (DAMAGED_B11, "B11"))
        ]
        self.file_patterns += [f"*{scene.item_id}*" for scene in SCENES]

    def job(self, name: str, **changes: Any) -> Job:
        """A start of the build in the workspace ``name``."""
        quick = PatchConfig(max_attempts=MAX_ATTEMPTS, backoff_s=0.01, num_workers=2)
        log_path = self.folder / f"{name}.log"
        job = Job(self.folder / name, PLACES, self.server.stac_url, self.server.sas_url, quick, log_path=log_path)
        return replace(job, **changes)

    def reset(self, token_lifetime_s: float = 2700.0) -> None:
        """No faults, no requests, fresh tokens."""
        self.server.heal()
        self.server.forget_requests()
        self.server.live_for(token_lifetime_s)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """Writes the scenes below ``folder`` and serves them; one band is missing, one file ends early, for good."""
    files = folder / "cog"
    files.mkdir(parents=True)
    for scene in SCENES:
        scene.write(files)
    (files / WITHOUT_B05.file_name("B05")).unlink()
    damaged = files / DAMAGED_B11.file_name("B11")
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with ExitStack() as stack:
        server = stack.enter_context(CogServer(files, needs_token=True))
        stub = stack.enter_context(StubStac(collection(), [_item(scene, server) for scene in SCENES]))
        server.hand_on_to(stub.url)
        yield World(server, folder)


def _item(scene: CoordinateScene, server: CogServer) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(json.dumps(scene.item(server.cog_url)))
    return item
