import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.errors import ConfigurationError, DatasetError
from pipelines.patches import s2_100k_download, s2_100k_hub
from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.s2_100k import import_s2_100k
from pipelines.patches.s2_100k_download import Patience, download_s2_100k
from pipelines.patches.s2_100k_hub import DownloadPlan, parse_shards, plan_download
from tests.loopback.faults import reset, status, truncate
from tests.loopback.hub import COMMIT, HubFileStub, HubServer, wait_for
from tests.pipelines.patches.s2_100k_layout import SIZE_PX, pixels, write_sharded

REPO = "someone/s2-100k"
TOKEN = "hf_tokenThatMustNotLeak"
NO_WAIT = Patience(backoff_s=0.0)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, HubFileStub]:
    folder = write_sharded(tmp_path / "published", range(8), 4)
    paths = [each for each in sorted(folder.rglob("*")) if each.is_file()]
    stubs = {str(each.relative_to(folder)): HubFileStub(each.read_bytes(), lfs=each.suffix == ".tar") for each in paths}
    return stubs | {"README.md": HubFileStub(b"# S2-100K", lfs=False)}


@pytest.fixture
def hub(files: dict[str, HubFileStub], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(REPO, files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def plan(shards: str | None = None) -> DownloadPlan:
    return plan_download(REPO, COMMIT, shards=shards)


def assert_complete(folder: Path, files: dict[str, HubFileStub]) -> None:
    found = {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}
    assert found == (set(files) - {"README.md"}) | {"download.json", ".download.lock"}
    for path in set(files) - {"README.md"}:
        assert (folder / path).read_bytes() == files[path].body


def test_a_plan_names_files_bytes_license_and_the_commit_of_a_branch(hub: HubServer) -> None:
    told = plan_download(REPO, "main")
    assert told.revision == COMMIT
    assert told.license == "mit"
    assert [file.path for file in told.files] == [*(f"data/shard-{n:03d}.tar" for n in range(4)), "index.csv"]
    assert told.num_bytes == sum(len(hub.files[file.path].body) for file in told.files)
    assert not hub.storage.answered()


def test_what_was_downloaded_can_be_imported(hub: HubServer, tmp_path: Path) -> None:
    report = download_s2_100k(plan(), tmp_path / "got")
    assert (report.num_files, report.num_fetched) == (5, 5)
    assert_complete(tmp_path / "got", hub.files)
    assert json.loads((tmp_path / "got" / "download.json").read_text())["revision"] == COMMIT
    assert import_s2_100k(tmp_path / "ws", tmp_path / "got", SIZE_PX).num_valid == 8
    np.testing.assert_array_equal(open_patch_dataset(tmp_path / "ws").read_dn(7), pixels(7))


def test_a_second_run_checks_and_fetches_nothing(hub: HubServer, tmp_path: Path) -> None:
    download_s2_100k(plan(), tmp_path / "got")
    (tmp_path / "got" / "index.csv").write_bytes(b"x" * len(hub.files["index.csv"].body))
    hub.storage.forget_requests()
    report = download_s2_100k(plan(), tmp_path / "got")
    assert (report.num_files, report.num_fetched) == (5, 1)
    assert not hub.storage.answered()
    assert_complete(tmp_path / "got", hub.files)


def test_only_the_shards_asked_for_are_taken(hub: HubServer, tmp_path: Path) -> None:
    paths = [file.path for file in plan("0-1,3").files]
    assert paths == ["data/shard-000.tar", "data/shard-001.tar", "data/shard-003.tar", "index.csv"]
    with pytest.raises(ConfigurationError, match=r"\[9\] not at this revision, which has 0 to 3"):
        plan("2,9")
    for wrong in ("", "3-1", "a", "1..2", "-1"):
        with pytest.raises(ConfigurationError, match="expected numbers and ranges"):
            parse_shards(wrong)


def test_a_wrong_hash_leaves_no_file(hub: HubServer, tmp_path: Path) -> None:
    right = hub.files["data/shard-002.tar"]
    hub.files["data/shard-002.tar"] = HubFileStub(right.body[:-1] + b"!", sha256=right.told_sha256)
    with pytest.raises(DatasetError, match=r"data/shard-002\.tar: its hash is not [0-9a-f]{64}; it was removed"):
        download_s2_100k(plan(), tmp_path / "got")
    assert not list((tmp_path / "got" / "data").glob("shard-002*"))
    hub.files["data/shard-002.tar"] = right
    download_s2_100k(plan(), tmp_path / "got")
    assert_complete(tmp_path / "got", hub.files)


def test_a_wrong_hash_without_lfs_is_seen_by_the_blob_id(hub: HubServer, tmp_path: Path) -> None:
    told = plan()
    body = hub.files["index.csv"].body
    hub.files["index.csv"].body = b"X" + body[1:]
    with pytest.raises(DatasetError, match=r"index\.csv: its hash is not [0-9a-f]{40};"):
        download_s2_100k(told, tmp_path / "got")


def test_transient_failures_are_outlived(hub: HubServer, tmp_path: Path) -> None:
    hub.storage.script("*shard-000*", truncate(9_000, 1), reset(1), status(503, 2, retry_after_s=0))
    hub.script("*resolve*shard-001*", status(429, 1, retry_after_s=0), reset(1))
    download_s2_100k(plan(), tmp_path / "got", patience=NO_WAIT)
    assert_complete(tmp_path / "got", hub.files)
    ranges = [each.byte_range for each in hub.storage.answered() if "shard-000" in each.path and each.status == 206]
    assert ranges[-1] is not None
    assert ranges[-1].startswith("bytes=9000-")


def test_a_body_that_is_always_cut_is_told_and_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.storage.script("*shard-000*", truncate(9_000, None))
    with pytest.raises(DatasetError, match=r"shard-000\.tar: broke off 6 times at byte 9000 of \d+; run the command"):
        download_s2_100k(plan(), tmp_path / "got", patience=NO_WAIT)
    hub.storage.heal()
    report = download_s2_100k(plan(), tmp_path / "got")
    assert report.num_bytes <= sum(len(stub.body) for stub in hub.files.values()) - 9_000
    assert_complete(tmp_path / "got", hub.files)


def test_a_server_without_ranges_begins_anew(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.storage.script("*shard-000*", truncate(9_000, 1))
    hub.storage.ignore_ranges = True
    download_s2_100k(plan("0"), tmp_path / "got", patience=NO_WAIT)
    assert (tmp_path / "got" / "data" / "shard-000.tar").read_bytes() == hub.files["data/shard-000.tar"].body


def test_a_file_comes_in_pieces(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s2_100k_download, "PIECE_BYTES", 50_000)
    download_s2_100k(plan("1"), tmp_path / "got")
    size = len(hub.files["data/shard-001.tar"].body)
    assert len(hub.storage.answered()) == -(-size // 50_000) > 1
    assert (tmp_path / "got" / "data" / "shard-001.tar").read_bytes() == hub.files["data/shard-001.tar"].body


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    hub.storage.bytes_per_s = 100_000
    arguments = ["dataset", "download", str(tmp_path / "got"), "--repo", REPO, "--revision", COMMIT]
    arguments += ["--shards", "2", "--yes"]
    code = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=os.environ | {"HF_ENDPOINT": hub.url})
    partial = tmp_path / "got" / "data"
    wait_for(lambda: any(each.stat().st_size > 20_000 for each in partial.glob("*.partial")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = next(partial.glob("*.partial")).stat().st_size
    assert not (partial / "shard-002.tar").exists()
    hub.storage.bytes_per_s = None
    hub.storage.forget_requests()
    report = download_s2_100k(plan("2"), tmp_path / "got")
    assert [each.byte_range.split("-")[0] for each in hub.storage.answered() if each.byte_range] == [f"bytes={left}"]
    assert report.num_bytes < sum(len(hub.files[path].body) for path in ("data/shard-002.tar", "index.csv"))
    assert (partial / "shard-002.tar").read_bytes() == hub.files["data/shard-002.tar"].body


def test_an_unknown_revision_or_dataset_is_told(hub: HubServer) -> None:
    with pytest.raises(DatasetError, match=r"s2-100k@v9 on 127\.0\.0\.1: no such revision"):
        plan_download(REPO, "v9")
    with pytest.raises(DatasetError, match="refused with status 404"):
        plan_download("someone/else", COMMIT)
    with pytest.raises(DatasetError, match="HFValidationError"):
        plan_download("not a name", COMMIT)


def test_a_private_dataset_needs_the_token_which_goes_to_the_hub_alone(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.token_wanted = TOKEN
    with pytest.raises(DatasetError, match="refused with status 401") as refused:
        plan()
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(DatasetError, match="refused with status 401"):
        plan()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("INFO")
    told = plan()
    hub.storage.script("*shard-001*", reset(1))
    download_s2_100k(told, tmp_path / "got", patience=NO_WAIT)
    assert_complete(tmp_path / "got", hub.files)
    assert hub.storage.leaked == []
    hub.storage.script("*shard-003*", reset(None))
    (tmp_path / "got" / "data" / "shard-003.tar").unlink()
    with pytest.raises(DatasetError) as failed:
        download_s2_100k(told, tmp_path / "got", patience=NO_WAIT)
    written = b"".join(each.read_bytes() for each in (tmp_path / "got").rglob("*") if each.suffix == ".json").decode()
    captured = capfd.readouterr()
    texts = [caplog.text, str(refused.value), str(failed.value), repr(told), written, captured.out, captured.err]
    for secret in (TOKEN, "hf_another", "SIGNATURE-OF-STORAGE", "sig="):
        assert secret not in "".join(texts)


def test_too_little_space_is_told_before_anything_is_fetched(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(DatasetError, match=r"GB free, .* are still to be fetched"):
        download_s2_100k(plan(), tmp_path / "got")
    assert not hub.storage.answered()


def test_paths_of_a_listing_cannot_leave_the_target(hub: HubServer, tmp_path: Path) -> None:
    for path in ("../evil.tar", "data/../../evil.tar", "/evil.tar", "data/.hidden.tar", "data/x/evil.tar", "a\\b.tar"):
        hub.files[path] = HubFileStub(b"evil")
    assert [file.path for file in plan().files] == [*(f"data/shard-{n:03d}.tar" for n in range(4)), "index.csv"]


def test_the_pinned_revision_must_have_the_pinned_hashes(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2_100k_hub, "REVISION", COMMIT)
    pinned = {"index.csv": hashlib.sha256(hub.files["index.csv"].body).hexdigest(), "data/shard-000.tar": "0" * 64}
    monkeypatch.setattr(s2_100k_hub, "PINNED_SHA256", pinned)
    with pytest.raises(DatasetError, match=r"data/shard-000\.tar: the Hub gives SHA-256 .* do not trust this source"):
        plan()
    del pinned["data/shard-000.tar"]
    assert plan().files[-1].digest == pinned["index.csv"]
    download_s2_100k(plan(), tmp_path / "got")
    pinned["index.csv"] = "f" * 64
    with pytest.raises(DatasetError, match=r"index\.csv: its hash is not f{64}"):
        download_s2_100k(plan(), tmp_path / "other")


def test_a_dataset_of_another_layout_is_told(hub: HubServer) -> None:
    del hub.files["index.csv"]
    with pytest.raises(DatasetError, match=r"expected index\.csv and tars"):
        plan()


def test_the_command_fetches_only_by_consent(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dataset", "download", str(tmp_path / "got"), "--repo", REPO, "--revision", "main"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "nothing fetched; add --yes" in told.err
    for text in ("127.0.0.1", "licence   mit", "files     5", COMMIT):
        assert text in told.out
    assert not (tmp_path / "got").exists()
    assert not hub.storage.answered()
    assert main([*arguments, "--yes", "--shards", "0-3"]) == 0
    assert_complete(tmp_path / "got", hub.files)
    assert main([*arguments[:-1], "v9", "--yes"]) == 1
    assert "no such revision" in capsys.readouterr().err


def test_two_downloads_into_one_folder_do_not_mix(hub: HubServer, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "got").mkdir()
    with FileLock(tmp_path / "got" / ".download.lock"), pytest.raises(DatasetError, match="another process downloads"):
        download_s2_100k(plan(), tmp_path / "got")
