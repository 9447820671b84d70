"""The sandbox's server process: ``python -m pipelines.sandbox CONFIG_JSON FOLDER [PARENT_PID]``."""

import contextlib
import json
import logging
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from pipelines.errors import SatclipError
from pipelines.parent_watch import end_with_parent
from pipelines.sandbox import catalog
from pipelines.sandbox.cogs import CogStore
from pipelines.sandbox.config import SandboxConfig
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.given_catalog import copy_catalog
from pipelines.sandbox.lifecycle import SandboxError, free_port, write_state
from pipelines.sandbox.planted.acquisitions import planted_scenes, planted_tiles
from pipelines.sandbox.planted.layer import PlantedLayer
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import Scene, tile_scenes
from pipelines.sandbox.server import SandboxServer
from pipelines.sandbox.tiling import Tile
from pipelines.sandbox.tokens import TokenIssuer

logger = logging.getLogger(__name__)

STAC_TIMEOUT_S = 120.0
_GRACE_S = 60.0


def _stop_on_signal(number: int, _: object) -> NoReturn:
    logger.info("signal %d", number)
    raise SystemExit(0)


def _rustac(port: int, folder: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("rustac")
    command = [
        str(program) if program.is_file() else "rustac",
        "serve",
        "-a",
        catalog.STAC_ORIGIN,
        "-b",
        f"127.0.0.1:{port}",
        *(str(path) for path in sorted(folder.glob("*collection.json"))),
        *(str(path) for path in sorted(folder.glob("*items.json"))),
    ]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise SandboxError("the program rustac was not found; install the package's dependencies again") from error


def _wait_for_stac(server: subprocess.Popen[bytes], port: int) -> None:
    start = time.monotonic()
    while time.monotonic() - start < STAC_TIMEOUT_S:
        if server.poll() is not None:
            raise SandboxError(f"rustac serve ended with code {server.returncode}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/collections/{catalog.COLLECTION_ID}", timeout=10),
        ):
            return
        time.sleep(0.05)
    raise SandboxError(f"rustac serve did not answer within {STAC_TIMEOUT_S:.0f} s")


def serve(config: SandboxConfig, folder: Path) -> None:
    """Serves until SIGTERM or SIGINT; announces itself in ``folder`` once everything answers."""
    planet = Planet(config.seed)
    renderer = Renderer(planet, layers=[PlantedLayer(config.seed)] if config.objects else [])
    issuer = TokenIssuer(secrets.token_bytes(32), config.token_lifetime_s)
    server = SandboxServer(
        config.port,
        CogStore(renderer),
        planet,
        issuer,
        require_token=config.require_token,
        stac_port=None,
        files_root=Path(config.catalog) if config.catalog else None,
    )
    with tempfile.TemporaryDirectory(prefix="satclip-sandbox-items-") as name:
        items = Path(name)
        if config.catalog:
            copy_catalog(Path(config.catalog), items)
            _serve_items(server, items, folder)
            return
        if config.all_land:
            tiles = list(catalog.land_tiles(renderer))
        else:
            from pipelines.sampling.points import draw_land_points

            lonlat: np.ndarray = draw_land_points(config.num_places, config.places_seed)
            tiles = catalog.tiles_of_places(lonlat)
        (items / "collection.json").write_text(json.dumps(catalog.collection()))
        catalog.write_items(items / "items.json", _scenes(config, tiles), renderer)
        catalog.write_land_cover(items, tiles)
        _serve_items(server, items, folder)


def _scenes(config: SandboxConfig, tiles: list[Tile]) -> Iterator[list[Scene]]:
    """Scenes tile by tile; a tile with objects has them every few days instead."""
    planted = planted_tiles() if config.objects else ()
    names = {tile.tile_id for tile in planted}
    yield from (tile_scenes(tile, config.seed, config.max_acquisitions) for tile in tiles if tile.tile_id not in names)
    yield from (planted_scenes(tile, config.seed) for tile in planted)


def _serve_items(server: SandboxServer, items: Path, folder: Path) -> None:
    stac_port = free_port()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stac = _rustac(stac_port, items)
    try:
        _wait_for_stac(stac, stac_port)
        server.stac_port = stac_port
        write_state(folder, server.origin)
        logger.info("serving at %s", server.origin)
        while stac.poll() is None:
            time.sleep(0.2)
        raise SandboxError(f"rustac serve ended with code {stac.returncode}")
    finally:
        server.shutdown()
        server.server_close()
        if stac.poll() is None:
            stac.terminate()
            try:
                stac.wait(5)
            except subprocess.TimeoutExpired:
                stac.kill()
                stac.wait()


def main() -> int:
    """Runs the server process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _stop_on_signal)
    signal.signal(signal.SIGINT, _stop_on_signal)
    config, folder = SandboxConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        end_with_parent(int(sys.argv[3]), _GRACE_S)
    try:
        serve(config, folder)
    except (SatclipError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
