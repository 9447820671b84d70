"""The test servers as fixtures; loaded by ``pytest_plugins`` in tests/conftest.py."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.cog import CogServer
from tests.loopback.stac import POSTGIS_PACKAGE, PgstacServer, pgstac_server, postgres_binaries


@pytest.fixture(scope="session")
def pgstac() -> Iterator[PgstacServer]:
    """An empty stac-fastapi-pgstac (7 s, once); ``pgstac.load(collection, items)`` fills it.

    A machine without PostgreSQL and PostGIS skips the test, except in CI, where their absence is a failure.
    """
    if postgres_binaries() is None:
        message = f"PostgreSQL with PostGIS not found; apt-get install --no-install-recommends {POSTGIS_PACKAGE}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with pgstac_server() as server:
        yield server


@pytest.fixture
def cog_server(tmp_path: Path) -> Iterator[CogServer]:
    """A range server over ``tmp_path / "cog"``; see ``require_token``, ``hand_on_to``, ``script``."""
    folder = tmp_path / "cog"
    folder.mkdir()
    with CogServer(folder) as server:
        yield server


@pytest.fixture
def token_endpoint(cog_server: CogServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[CogServer]:
    """The ``cog_server``, refusing requests without a live token, as the token endpoint of ``planetary_computer``."""
    import planetary_computer.sas
    from planetary_computer.settings import Settings

    cog_server.require_token(True)
    monkeypatch.setenv("PC_SDK_SAS_URL", cog_server.sas_url)
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "")
    monkeypatch.setattr(planetary_computer.sas, "TOKEN_CACHE", {})
    Settings.get.cache_clear()
    yield cog_server
    Settings.get.cache_clear()
