"""Starting and stopping the sandbox: around a block of code, around a command, or until told."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from pipelines.atomic import write_json
from pipelines.errors import ConfigurationError, SatclipError
from pipelines.sandbox.config import SandboxConfig

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 180.0
ALL_LAND_TIMEOUT_S: Final = 3_600.0
STOP_TIMEOUT_S: Final = 10.0
STATE_NAME: Final = "sandbox.json"
LOG_NAME: Final = "sandbox.log"


class SandboxError(SatclipError):
    """The sandbox's servers could not be started or stopped."""


@dataclass(frozen=True)
class SandboxHandle:
    """Addresses of a running sandbox.

    Attributes:
        origin: Scheme, host and port, e.g. ``http://127.0.0.1:40123``.
        pid: Process that serves it; its end ends the sandbox.
    """

    origin: str
    pid: int

    @property
    def stac_url(self) -> str:
        """Root of the STAC API."""
        return f"{self.origin}/stac"

    @property
    def sas_url(self) -> str:
        """Token endpoint, as planetary-computer wants it."""
        return f"{self.origin}/sas/token"

    @property
    def tables_root(self) -> str:
        """Folder of the downstream tables."""
        return f"{self.origin}/tables"

    @property
    def environment(self) -> dict[str, str]:
        """The variables through which a command finds the sandbox."""
        return {
            "SATCLIP_STAC_URL": self.stac_url,
            "PC_SDK_SAS_URL": self.sas_url,
            "SATCLIP_TABLES_ROOT": self.tables_root,
        }


def _launch(config: SandboxConfig, folder: Path, *, detached: bool) -> tuple[subprocess.Popen[bytes], Path]:
    ready = folder / STATE_NAME
    command = [sys.executable, "-m", "pipelines.sandbox", config.model_dump_json(), str(folder)]
    if not detached:
        command.append(str(os.getpid()))
    with (folder / LOG_NAME).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return process, ready


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path, config: SandboxConfig) -> SandboxHandle:
    start = time.monotonic()
    limit = ALL_LAND_TIMEOUT_S if config.all_land else START_TIMEOUT_S
    while time.monotonic() - start < limit:
        if process.poll() is not None:
            tail = (folder / LOG_NAME).read_text(errors="replace")[-2_000:].strip()
            raise SandboxError(
                f"the sandbox ended with code {process.returncode} before it was ready; it said:\n{tail}"
            )
        if (folder / STATE_NAME).is_file():
            handle = read_state(folder)
            logger.info("sandbox at %s after %.1f s", handle.origin, time.monotonic() - start)
            return handle
        time.sleep(0.05)
    raise SandboxError(f"the sandbox was not ready after {limit:.0f} s; see {folder / LOG_NAME}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def start_sandbox(config: SandboxConfig) -> Iterator[SandboxHandle]:
    """Runs the servers in processes of their own for the length of a ``with`` block.

    Raises:
        SandboxError: They did not come up; the message ends with their log.
    """
    with tempfile.TemporaryDirectory(prefix="satclip-sandbox-") as name:
        folder = Path(name)
        process, _ = _launch(config, folder, detached=False)
        try:
            yield _wait_until_ready(process, folder, config)
        finally:
            _stop(process)


def run_in_sandbox(command: list[str], config: SandboxConfig) -> int:
    """Runs a command with the sandbox's addresses in its environment and returns its exit code.

    SIGINT, SIGTERM and SIGHUP reach the command; the servers are stopped after it ended. A command ended by a signal
    gives 128 plus the signal's number.

    Raises:
        ConfigurationError: No command, or a program that does not exist.
        SandboxError: The servers did not come up.
    """
    if not command:
        raise ConfigurationError("sandbox run: no command given; write it after --, e.g. satclip sandbox run -- env")
    received: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if child:
            with contextlib.suppress(ProcessLookupError):
                child[0].send_signal(number)
        else:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        with start_sandbox(config) as handle:
            try:
                child.append(subprocess.Popen(command, env={**os.environ, **handle.environment}))
            except OSError as error:
                raise ConfigurationError(f"sandbox run: cannot start {command[0]!r}: {error.strerror}") from error
            code = child[0].wait()
    except KeyboardInterrupt:
        return 128 + (received[0] if received else signal.SIGINT)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def read_state(folder: Path) -> SandboxHandle:
    """The sandbox that runs from a folder.

    Raises:
        SandboxError: None was started there, or its state file is damaged.
    """
    path = folder / STATE_NAME
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        return SandboxHandle(origin=str(state["origin"]), pid=int(state["pid"]))
    except FileNotFoundError as error:
        raise SandboxError(
            f"no sandbox runs from {folder} ({STATE_NAME} is missing); start one with: satclip sandbox up"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"{path} is damaged ({error}); delete it and start anew") from error


def _answers(handle: SandboxHandle) -> bool:
    try:
        with urllib.request.urlopen(f"{handle.origin}/health", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def up(config: SandboxConfig, folder: Path) -> SandboxHandle:
    """Starts a sandbox that outlives this process; its state and log lie in ``folder``.

    Raises:
        SandboxError: One runs there already, or it did not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / STATE_NAME).is_file():
        handle = read_state(folder)
        if _answers(handle):
            raise SandboxError(
                f"a sandbox runs from {folder} already, at {handle.origin}; stop it with: satclip sandbox down"
            )
        (folder / STATE_NAME).unlink()
    process, _ = _launch(config, folder, detached=True)
    try:
        handle = _wait_until_ready(process, folder, config)
        # The process is to outlive this object: with a code set, its end is neither awaited nor missed.
        process.returncode = 0
        return handle
    except BaseException:
        _stop(process)
        raise


def down(folder: Path) -> SandboxHandle:
    """Stops the sandbox that was started from ``folder`` and returns what it was.

    Raises:
        SandboxError: None was started there, or it does not end.
    """
    handle = read_state(folder)
    if _answers(handle):
        with contextlib.suppress(ProcessLookupError):
            os.kill(handle.pid, signal.SIGTERM)
        start = time.monotonic()
        while _answers(handle):
            if time.monotonic() - start > STOP_TIMEOUT_S:
                raise SandboxError(
                    f"process {handle.pid} of the sandbox at {handle.origin} does not end; end it by hand"
                )
            time.sleep(0.1)
    (folder / STATE_NAME).unlink(missing_ok=True)
    return handle


def free_port() -> int:
    """A port on loopback nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_state(folder: Path, origin: str) -> None:
    """Announces this process as the sandbox of a folder, ready to serve."""
    write_json(folder / STATE_NAME, {"origin": origin, "pid": os.getpid()})
