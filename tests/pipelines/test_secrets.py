"""No signature, no token and no key reaches a file, a log, a message or another process, however loud everything is."""

import gzip
import json
import logging
import pickle
import re
import socket
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import zarr

from pipelines.errors import SatclipError
from pipelines.patches.config import PatchConfig
from pipelines.patches.publication import publish_dataset
from pipelines.patches.shards import ShardTask, run_shard_task
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import read_sampling_manifest, write_sampling_manifest
from pipelines.sampling.scenes import find_scenes
from tests.drill.trial import readers
from tests.loopback import faults
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import Fault
from tests.loopback.stub_stac import StubStac

pytestmark = pytest.mark.network

SUBSCRIPTION_KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
PRESIGNED = "cHJlc2lnbmVkLXNlY3JldC1vZi10aGUtaXRlbQ"
SIGNATURE_WITH_VALUE = re.compile(r"(?i)\b(sig|signature|x-amz-signature|subscription-key)=(?!\.\.\.|\*|<|…)[^\s&'\"]")
SCENE = CoordinateScene(32632, 399960, 5300040, "32TLT")
LOUD = (
    "aiohttp", "aiohttp.client", "aiohttp.internal", "asyncio", "async_tiff", "boto3", "botocore", "botocore.auth",
    "fsspec", "http.client", "httpx", "obstore", "planetary_computer", "pystac_client", "rasterio", "rasterio._env",
    "rasterio._err", "requests", "s3fs", "urllib3", "urllib3.connectionpool", "urllib3.util.retry",
)  # fmt: skip
FILE, TOKEN, STAC = "/cog/*", "/sas/token/*", "/stac*"
TROUBLES: dict[str, tuple[str, Fault]] = {
    "nothing": (FILE, faults.slow(0.0)),
    "denied with a fresh token": ("*_B0?_*", faults.status(403, times=None)),
    "denied at first": (FILE, faults.status(403)),
    "not there": ("*_B03_*", faults.status(404, times=None)),
    "truncated": ("*_B04_*", faults.truncate(9_000)),
    "failing server": ("*_B05_*", faults.status(503, times=None)),
    "throttling": (FILE, faults.status(429, times=None, retry_after_s=0)),
    "bad gateway with a page": (FILE, faults.status(502, times=None)),
    "reset": ("*_SCL_*", faults.reset(times=None)),
    "cut": ("*_B08_*", faults.cut(times=None)),
    "dropped": ("*_B08_*", faults.drop(times=None)),
    "short": ("*_B11_*", faults.short(times=None)),
    "other bytes": ("*_B12_*", faults.other_range(times=None)),
    "whole file": ("*_B12_*", faults.whole(times=None)),
    "refused": (FILE, faults.refuse(0.5, times=3)),
    "revoked": ("*_B02_*", faults.revoke(times=3)),
    "token endpoint fails": (TOKEN, faults.status(500, times=None)),
    "token endpoint denies": (TOKEN, faults.status(401, times=None)),
    "token endpoint resets": (TOKEN, faults.reset(times=None)),
    "catalog fails": (STAC, faults.status(504, times=None)),
    "catalog resets": (STAC, faults.reset(times=None)),
}


class Everything(logging.Handler):
    """Every record of every logger, formatted as a file would hold it, with tracebacks and unformatted arguments."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name}: {self.format(record)} {record.args!r}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Everything]:
    everything = Everything()
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *LOUD)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(everything)
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setenv("RUST_LOG", "debug")
    yield everything
    root.removeHandler(everything)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Secrets:
    """What must be found nowhere."""

    def __init__(self, signatures: list[str]) -> None:
        plain = [*signatures, SUBSCRIPTION_KEY, PRESIGNED]
        self.words = {*plain, *(quote(word, safe="") for word in plain), *(word.rstrip("=") for word in plain)}

    def found_in(self, text: str) -> list[str]:
        """Where the text tells a secret, with what stands before it."""
        places = [text.find(word) for word in self.words if word in text]
        places += [match.start() for match in SIGNATURE_WITH_VALUE.finditer(text)]
        return [text[max(0, at - 150) : at + 30] for at in places]


def texts_of(root: Path) -> Iterator[tuple[str, str]]:
    """Everything that a workspace holds, uncompressed: names, bytes, tables, attributes and columns of stores."""
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        yield name, name
        if path.is_dir():
            if path.suffix == ".zarr":
                for member, node in zarr.open_group(path, mode="r").members(max_depth=None):
                    yield f"{name}/{member}", json.dumps(dict(node.attrs), default=str)
                    if isinstance(node, zarr.Array) and node.dtype.kind not in "uif":
                        yield f"{name}/{member}", str(node[:].tolist())
            continue
        yield name, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            yield name, str(pq.read_schema(path).metadata)
            yield name, pd.DataFrame(pq.read_table(path).to_pydict()).to_csv()
        elif path.suffix == ".gz":
            yield name, gzip.decompress(path.read_bytes()).decode("latin-1")


def whole_story(error: BaseException) -> str:
    """Message, arguments and the chain of tracebacks as a log or another process shows them."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


class Build:
    """Search, plan, read and publish with tokens, keeping all that is said."""

    def __init__(self, server: CogServer, root: Path, reader: str | None) -> None:
        self.server, self.root, self.said = server, root, []
        self.sampling_folder = root / "sampling"
        settings = {} if reader is None else {"reader": reader}
        self.config = PatchConfig(max_attempts=2, backoff_s=0.0, num_workers=2, **settings)

    @property
    def task(self) -> ShardTask:
        return ShardTask(
            self.root, read_sampling_manifest(self.sampling_folder).folder, 0, self.server.stac_url, "auto", self.config
        )

    def run(self) -> None:
        """Every step, whatever becomes of the one before."""
        for step in (self.plan, self.read, self.publish):
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    step()
                self.said += [f"{each.message}" for each in told]
            except (SatclipError, OSError, ValueError) as error:
                self.said += [whole_story(error)]

    def plan(self) -> None:
        if (self.sampling_folder / "sampling_manifest.json").is_file():
            return
        places = pd.DataFrame([SCENE.lonlat_at(500, 500), SCENE.lonlat_at(900, 200)], columns=["lon_deg", "lat_deg"])
        places.insert(0, "place_id", range(len(places)))
        search = SearchConfig()
        catalog = open_catalog(self.server.stac_url, search.collection)
        found, _ = find_scenes(places, catalog, search)
        parents = {"search_config": search.model_dump()}
        plan = PlanConfig(patch_size_px=64)
        self.manifest = write_sampling_manifest(self.sampling_folder, places, found, plan, parents)

    def read(self) -> None:
        task = self.task
        self.said += [
            repr(task),
            repr(task.config),
            pickle.dumps(task).decode("latin-1"),
            repr(pickle.loads(pickle.dumps(task))),
        ]
        self.said.append(repr(run_shard_task(task)))

    def publish(self) -> None:
        manifest = read_sampling_manifest(self.sampling_folder)
        self.said.append(repr(publish_dataset(self.root, manifest.plan_id, source=manifest.collection)))


@pytest.fixture
def server(token_endpoint: CogServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[CogServer]:
    from planetary_computer.settings import Settings

    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", SUBSCRIPTION_KEY)
    monkeypatch.setattr("time.sleep", lambda _: None)
    Settings.get.cache_clear()
    SCENE.write(token_endpoint.folder)
    item = json.loads(json.dumps(SCENE.item(token_endpoint.cog_url)))
    for asset in item["assets"].values():
        asset["href"] += f"?se=2099-01-01&sig={PRESIGNED}"
    with StubStac(collection(), [item]) as stub:
        token_endpoint.hand_on_to(stub.url)
        yield token_endpoint


@pytest.mark.parametrize("reader", readers() or [None])
def test_no_secret_is_told_whatever_goes_wrong(
    server: CogServer, tmp_path: Path, log: Everything, capfd: pytest.CaptureFixture[str], reader: str | None
) -> None:
    builds = {}
    for name, (pattern, fault) in TROUBLES.items():
        wait_until_open(server)
        build = Build(server, tmp_path / "workspaces" / name.replace(" ", "_"), reader)
        if pattern != STAC:
            build.plan()
        server.revoke_tokens()
        forget_tokens()
        server.script(pattern, fault)
        with rasterio.Env(CPL_DEBUG=True):
            build.run()
        server.heal()
        builds[name] = build
    secrets = Secrets(server.signatures)
    assert len(server.signatures) >= len(TROUBLES) - 8
    printed = "".join(capfd.readouterr())
    leaks = {
        f"{name}: said": found
        for name, build in builds.items()
        for text in build.said
        if (found := secrets.found_in(text))
    }
    leaks |= {f"file {name}": found for name, text in texts_of(tmp_path) if (found := secrets.found_in(text))}
    leaks |= {f"log {text.split(':')[0]}": found for text in log.texts if (found := secrets.found_in(text))}
    leaks |= {"printed": found} if (found := secrets.found_in(printed)) else {}
    assert not leaks, "\n".join(f"{where}: {found[:2]}" for where, found in leaks.items())
    heard = {text.split(":")[0] for text in log.texts}
    assert {"urllib3.connectionpool", "asyncio"} <= heard


def wait_until_open(server: CogServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with socket.socket() as client:
        while client.connect_ex(("127.0.0.1", port)):
            threading.Event().wait(0.05)


def forget_tokens() -> None:
    import planetary_computer.sas

    planetary_computer.sas.TOKEN_CACHE.clear()
