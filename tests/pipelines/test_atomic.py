import json
import logging
from pathlib import Path

import pytest

from pipelines.atomic import replacing, write_json
from pipelines.progress import Progress
from pipelines.provenance import content_hash, file_sha256
from pipelines.workspace import workspace_root


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"b": 1, "a": [2]})

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert json.loads(path.read_text()) == {"a": [2], "b": 1}
    assert [each.name for each in path.parent.iterdir()] == ["value.json"]


def test_numbers_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "deep" / "value.json", {"score": float("nan")})
    assert not list((tmp_path / "deep").iterdir())


def test_the_content_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": 1, "b": [1, 2]}) != content_hash({"a": 1, "b": [2, 1]})


def test_a_file_has_its_well_known_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_progress_tells_counts_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress(logging.getLogger("pipelines.test"), "reading", total=4, unit="files", interval_s=0.0)
    for _ in range(4):
        progress.advance()
    assert caplog.messages[0] == "reading: 4 files to do"
    assert caplog.messages[1].startswith("reading: 1 of 4 files, ")
    assert caplog.messages[-1].startswith("reading: 4 of 4 files, ")
    assert caplog.messages[-1].endswith("0 s left")


def test_the_workspace_is_named_by_argument_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SATCLIP_ROOT", raising=False)
    assert workspace_root() == tmp_path / "satclip_data"
    monkeypatch.setenv("SATCLIP_ROOT", str(tmp_path / "named"))
    assert workspace_root() == tmp_path / "named"
    assert workspace_root(tmp_path / "given") == tmp_path / "given"
