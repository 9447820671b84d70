import hashlib

import numpy as np
import pytest

from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks import TaskConfig, continents, download_table, load_task
from pipelines.evaluation.tasks.download import download_file
from tests.loopback.faults import Exchange, LoopbackServer, cut, reset, status

TABLE = "\n".join(["lon,lat,y", *(f"{row},{row / 2},{row * row}" for row in range(60))]).encode()
SHA256 = hashlib.sha256(TABLE).hexdigest()

pytestmark = pytest.mark.network


class Files(LoopbackServer):
    def __init__(self):
        super().__init__()
        self.files = {"/t.csv": TABLE}

    def answer(self, exchange: Exchange) -> None:
        body = self.files.get(exchange.route)
        exchange.reply(404 if body is None else 200, body or b"")


@pytest.fixture
def served():
    with Files() as server:
        yield server


def config_of(served, **download):
    return TaskConfig(name="t", table="sub/t.csv", target="y", download={"url": f"{served.url}/t.csv"} | download)


def test_nothing_is_fetched_unless_asked_for(served, tmp_path):
    with pytest.raises(MissingTableError, match="--download"):
        load_task(config_of(served), tmp_path)
    assert served.answered() == []


@pytest.mark.parametrize("download", [{}, {"sha256": SHA256}])
def test_a_table_is_fetched_once_on_request(served, tmp_path, download):
    data = load_task(config_of(served, **download), tmp_path, download=True)
    assert (tmp_path / "sub" / "t.csv").read_bytes() == TABLE
    assert data.table_sha256 == SHA256
    load_task(config_of(served, **download), tmp_path, download=True)
    assert len(served.answered()) == 1


def test_a_file_of_the_user_is_never_replaced(served, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "t.csv").write_bytes(TABLE.replace(b"y", b"y", 1) + b"\n7,7,7\n")
    data = load_task(config_of(served, sha256=SHA256), tmp_path, download=True)
    assert data.rows == 61
    assert any(f"the table is not the one declared: SHA-256 {data.table_sha256}" in note for note in data.notes)
    assert served.answered() == []


def test_other_content_than_declared_is_refused_and_leaves_nothing(served, tmp_path):
    with pytest.raises(TableError, match=f"has SHA-256 {SHA256}, expected 0000"):
        load_task(config_of(served, sha256="0" * 64), tmp_path, download=True)
    assert [path for path in (tmp_path / "sub").rglob("*") if path.is_file()] == []


def test_a_passing_fault_is_overcome(served, tmp_path):
    served.script("*", status(503), reset())
    assert download_file(f"{served.url}/t.csv", tmp_path / "t.csv", SHA256) == SHA256


def test_a_body_that_breaks_off_leaves_nothing(served, tmp_path):
    served.script("*", cut(times=None))
    with pytest.raises(TableError, match="cannot be fetched"):
        download_file(f"{served.url}/t.csv", tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_what_the_server_lacks_is_missing(served, tmp_path):
    with pytest.raises(MissingTableError, match="answered HTTP 404"):
        download_file(f"{served.url}/none.csv", tmp_path / "t.csv")


def test_a_table_is_read_from_an_address_without_being_kept(served, tmp_path):
    data = load_task(TaskConfig(name="t", table="t.csv", target="y"), served.url)
    np.testing.assert_array_equal(data.target, np.arange(60.0) ** 2)
    assert data.table_sha256 == SHA256
    with pytest.raises(TableError, match="a download needs a folder of tables"):
        download_table(config_of(served), served.url)


def test_a_task_without_an_address_cannot_be_fetched(tmp_path):
    with pytest.raises(MissingTableError, match="no such file; task t needs it"):
        load_task(TaskConfig(name="t", table="t.csv", target="y"), tmp_path, download=True)


def test_countries_of_other_content_than_pinned_are_refused(served, tmp_path, monkeypatch):
    for name in continents.FILES:
        served.files[f"/{name}"] = b"other"
    monkeypatch.setattr(continents, "SOURCE_URL", f"{served.url}/")
    with pytest.raises(TableError, match="expected 04081330b6a0"):
        continents.continent_of(np.zeros((1, 2)), tmp_path / "polygons", download=True)
