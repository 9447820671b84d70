"""MapLibre GL JS: fetched from npm once, by consent, into the user's cache; the repository does not carry it."""

import base64
import hashlib
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pipelines.atomic import replacing
from pipelines.errors import MissingTableError

VERSION: Final = "5.6.1"
INTEGRITY: Final = "TTSfoTaF7RqKUR9wR5qDxCHH2J1XfZ1E85luiLOx0h8r50T/LnwAwwfV0WVNh9o8dA7rwt57Ucivf1emyeukXg=="
"""SHA-512 (base64) of the package, as npm states it. The package is BSD-3-Clause."""
SCRIPT: Final = "maplibre-gl.js"
STYLE: Final = "maplibre-gl.css"
LICENSE: Final = "LICENSE.txt"
FILES: Final = {
    "package/dist/maplibre-gl.css": STYLE,
    "package/LICENSE.txt": LICENSE,
    "package/dist/maplibre-gl.js": SCRIPT,
}
"""Members of the package and what they are called here; the script, by which the library is found, last."""
FETCH_TIMEOUT_S: Final = 300


def default_library() -> Path:
    """The folder of the user's cache where the library is kept."""
    return Path.home() / ".cache" / "satclip" / f"maplibre-gl-{VERSION}"


def find_library(folder: Path | None = None, *, download: bool = False) -> Path:
    """The folder that holds the script, the styles and the licence of MapLibre.

    Args:
        folder: Where it is; None: the user's cache.
        download: Whether it is fetched with npm where it is not there.

    Raises:
        MissingTableError: It is not there and may not be fetched, npm is not there or failed, or what came is not the
            package that is expected.
    """
    folder = default_library() if folder is None else folder
    if (folder / SCRIPT).is_file():
        return folder
    if not download:
        raise MissingTableError(
            f"{folder}: no MapLibre {VERSION} there, which the map needs; allow the download (--download, by npm), "
            f"or put {SCRIPT}, {STYLE} and {LICENSE} of the npm package maplibre-gl there"
        )
    with TemporaryDirectory() as temporary:
        install(_fetch(Path(temporary)), folder)
    return folder


def _fetch(folder: Path) -> Path:
    command = ["npm", "pack", "--silent", f"maplibre-gl@{VERSION}", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    except FileNotFoundError as error:
        raise MissingTableError(
            "npm was not found, which fetches MapLibre; install Node.js, or fetch it by hand"
        ) from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        told = (error.stderr or "it took too long") if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise MissingTableError(
            f"npm could not fetch maplibre-gl {VERSION} ({str(told).strip()}); try again"
        ) from error
    return next(folder.glob("*.tgz"))


def install(package: Path, folder: Path, integrity: str = INTEGRITY) -> None:
    """Takes the files of the map out of a package.

    Raises:
        MissingTableError: The package has another SHA-512, or lacks a file.
    """
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode("ascii")
    if found != integrity:
        raise MissingTableError(f"{package.name}: SHA-512 {found}, expected {integrity}; nothing was installed")
    with tarfile.open(package) as archive:
        for member, name in FILES.items():
            try:
                source = archive.extractfile(member)
            except KeyError:
                source = None
            if source is None:
                raise MissingTableError(f"{package.name}: has no {member}; nothing was installed")
            with replacing(folder / name) as partial:
                partial.write_bytes(source.read())
