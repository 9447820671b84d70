"""Two real STAC API servers over given items: rustac, and stac-fastapi-pgstac on PostgreSQL with PostGIS."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.request import urlopen

Item = dict[str, Any]
Collection = dict[str, Any]

POSTGIS_PACKAGE = "postgresql-15-postgis-3"
START_TIMEOUT_S = 60.0


# rustac ---------------------------------------------------------------------------------------------------------------


@contextmanager
def rustac_server(collection: Collection, items: Sequence[Item]) -> Iterator[str]:
    """Runs ``rustac serve`` over the items; yields the address of the API.

    It answers ``query`` and ``filter`` with no items at all and HTTP 200, and does not claim to honour them.
    """
    with tempfile.TemporaryDirectory(prefix="satclip-rustac-") as folder:
        collection_path, items_path = Path(folder, "collection.json"), Path(folder, "items.json")
        log = Path(folder, "rustac.log")
        collection_path.write_text(json.dumps(collection))
        items_path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
        program = Path(sys.executable).with_name("rustac")
        for attempt in range(3):
            address = f"127.0.0.1:{_free_port()}"
            command = [str(program), "serve", "-a", address, str(collection_path), str(items_path)]
            with _process(command, log) as process:
                try:
                    _wait_for_answer(f"http://{address}/", process, log)
                except ChildProcessError:
                    if attempt == 2:
                        raise
                    continue  # another process took the port in between
                yield f"http://{address}"
                return


# stac-fastapi-pgstac --------------------------------------------------------------------------------------------------


def postgres_binaries() -> Path | None:
    """Folder of the newest PostgreSQL that has PostGIS; None where there is none."""
    found = [
        folder
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if (folder / "initdb").exists()
        and Path(f"/usr/share/postgresql/{folder.parent.name}/extension/postgis.control").exists()
    ]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


@dataclass(frozen=True)
class PgstacServer:
    """A running stac-fastapi-pgstac, what the Planetary Computer runs, on a database of its own."""

    url: str
    environment: dict[str, str]
    folder: Path

    def load(self, collection: Collection, items: Sequence[Item]) -> None:
        """Puts the collection and its items into the database, in place of a collection of that id."""
        self.drop(collection["id"])
        collection_path, items_path = self.folder / "collection.json", self.folder / "items.ndjson"
        collection_path.write_text(json.dumps(collection))
        items_path.write_text("".join(json.dumps(item) + "\n" for item in items))
        self.pypgstac("load", "collections", str(collection_path), "--method", "upsert")
        if items:
            self.pypgstac("load", "items", str(items_path), "--method", "insert")

    def drop(self, collection_id: str) -> None:
        """Removes a collection with its items; nothing happens where it does not exist."""
        psql = ["psql", "-qX", "-v", "ON_ERROR_STOP=1", "-v", f"id={collection_id}"]
        _run(psql, self.folder, self.environment, text="DELETE FROM pgstac.collections WHERE id = :'id'")

    def pypgstac(self, *arguments: str) -> None:
        """Runs ``pypgstac``."""
        _run([str(Path(sys.executable).with_name("pypgstac")), *arguments], self.folder, self.environment)


@contextmanager
def pgstac_server(collection: Collection | None = None, items: Sequence[Item] = ()) -> Iterator[PgstacServer]:
    """Starts PostgreSQL in a folder of its own and the API on loopback; no process and no file is left behind.

    Raises:
        FileNotFoundError: Without PostgreSQL and PostGIS.
    """
    binaries = postgres_binaries()
    if binaries is None:
        message = f"PostgreSQL with PostGIS not found below /usr/lib/postgresql; apt-get install {POSTGIS_PACKAGE}"
        raise FileNotFoundError(message)
    user = "postgres" if os.geteuid() == 0 else None  # initdb refuses root
    folder = Path(tempfile.mkdtemp(prefix="satclip-pgstac-"))
    try:
        if user is not None:
            shutil.chown(folder, user, user)
        data = folder / "data"
        _run([str(binaries / "initdb"), "-D", str(data), "-U", "pgstac", "-A", "trust", "-N"], folder, user=user)
        settings = ("fsync=off", "full_page_writes=off", "listen_addresses=", f"unix_socket_directories={folder}")
        server = [str(binaries / "postgres"), "-D", str(data), *(f"--{setting}" for setting in settings)]
        environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PGHOST": str(folder),
            "PGPORT": "5432",
            "PGUSER": "pgstac",
            "PGPASSWORD": "trust",
            "PGDATABASE": "postgres",
        }
        with _process(server, folder / "postgres.log", user=user, stop_signal=signal.SIGINT) as postgres:
            ready = [str(binaries / "pg_isready"), "-q"]
            _wait_until(
                lambda: subprocess.run(ready, env=environment).returncode == 0,
                postgres,
                folder / "postgres.log",
            )
            with _pgstac_api(folder, environment) as pgstac:
                if collection is not None:
                    pgstac.load(collection, items)
                yield pgstac
    finally:
        shutil.rmtree(folder)


@contextmanager
def _pgstac_api(folder: Path, environment: dict[str, str]) -> Iterator[PgstacServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pgstac = PgstacServer(url, environment, folder)
        pgstac.pypgstac("migrate")
        # asyncpg takes its address from a URL, so the folder of the socket is quoted
        quoted = environment | {"PGHOST": environment["PGHOST"].replace("/", "%2F")}
        command = [
            *(sys.executable, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"),
            *("--fd", str(listener.fileno()), "--log-level", "warning", "--timeout-graceful-shutdown", "1"),
        ]
        log = folder / "api.log"
        with _process(command, log, environment=quoted, pass_fds=(listener.fileno(),)) as process:
            _wait_for_answer(f"{url}/_mgmt/ping", process, log)
            yield pgstac


# processes ------------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return cast(int, listener.getsockname()[1])


def _run(
    command: Sequence[str],
    folder: Path,
    environment: dict[str, str] | None = None,
    user: str | None = None,
    text: str | None = None,
) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, user=user, group=user, input=text, capture_output=True, text=True
    )
    if done.returncode != 0:
        message = f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise ChildProcessError(message)


@contextmanager
def _process(
    command: Sequence[str],
    log: Path,
    *,
    environment: dict[str, str] | None = None,
    user: str | None = None,
    pass_fds: tuple[int, ...] = (),
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            user=user,
            group=user,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        try:
            with urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, ConnectionError, TimeoutError):
            return False

    _wait_until(answers, process, log)


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.05)
    message = f"{process.args!r} did not start (exit code {process.poll()}):\n{log.read_text(errors='replace')[-2000:]}"
    raise ChildProcessError(message)
