import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DatasetError
from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.s2_100k import import_s2_100k
from pipelines.patches.s2_100k_image import MAX_FILE_BYTES
from pipelines.patches.s2_100k_source import open_source
from pipelines.patches.s2_100k_tar import MAX_EXTENDED_HEADER_BYTES, scan_tar
from tests.pipelines.patches.s2_100k_layout import (
    SIZE_PX,
    index_text,
    patch_bytes,
    pixels,
    write_loose,
    write_sharded,
    write_tar,
)


def members(numbers: list[int], folder: str = "") -> list[tuple[str, bytes]]:
    return [(f"{folder}patch_{number}.tif", patch_bytes(number)) for number in numbers]


def assert_imported(root: Path, source: Path, numbers: list[int]) -> str:
    record = import_s2_100k(root, source, SIZE_PX)
    assert (record.num_places, record.num_valid) == (len(numbers), len(numbers))
    dataset = open_patch_dataset(root)
    for row, number in enumerate(numbers):
        np.testing.assert_array_equal(dataset.read_dn(row), pixels(number))
    assert dataset.places["item_id"].tolist() == [f"patch_{number}.tif" for number in numbers]
    return record.version


def test_loose_files_and_every_kind_of_tar_give_the_same_version(tmp_path: Path) -> None:
    numbers = [11, 3, 7, 100, 2]
    versions = {assert_imported(tmp_path / "a", write_loose(tmp_path / "loose", numbers), numbers)}
    versions.add(assert_imported(tmp_path / "b", write_sharded(tmp_path / "sharded", numbers, 3), numbers))
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        beside = write_tar(tmp_path / suffix / f"satclip.{suffix}", members(sorted(numbers)), mode)
        (beside.parent / "index.csv").write_text(index_text(numbers))
        versions.add(assert_imported(tmp_path / f"{suffix}-ws", beside, numbers))
    inside = [("top/index.csv", index_text(numbers).encode()), *members(numbers, "top/images/")]
    archive = write_tar(tmp_path / "inside.tar.xz", inside, "w:xz")
    versions.add(assert_imported(tmp_path / "inside-ws", archive, numbers))
    assert len(versions) == 1


def test_nothing_but_the_workspace_is_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    archive = write_tar(source / "satclip.tar", members([1, 2]))
    (source / "index.csv").write_text(index_text([1, 2]))
    import_s2_100k(tmp_path / "ws", archive, SIZE_PX)
    assert sorted(each.name for each in source.iterdir()) == ["index.csv", "satclip.tar"]
    assert not list((tmp_path / "ws").rglob("*.tif"))


def test_a_hostile_tar_writes_nothing_and_its_entries_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "src" / "data" / "shard-000.tar"
    (path.parent).mkdir(parents=True)
    (tmp_path / "src" / "index.csv").write_text(index_text([1, 2, 3, 4]) + "1,2,u,../../outside.tif\n")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("/etc/patch_1.tif", "../../patch_2.tif", "a/../../patch_2.tif"):
            add(archive, name, patch_bytes(1))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "patch_4.tif")):
            link = tarfile.TarInfo("patch_3.tif")
            link.type, link.linkname = kind, target
            archive.addfile(link)
        device = tarfile.TarInfo("patch_3.tif")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
        add(archive, "images/\u2603 \n\u202e.tif", b"odd")
        add(archive, "images/" + "x" * 300 + ".tif", b"long")
        add(archive, "images/._patch_4.tif", b"resource fork")
        add(archive, "images/patch_4.tif", patch_bytes(4))
    before = snapshot(tmp_path, tmp_path / "ws")
    record = import_s2_100k(tmp_path / "ws", tmp_path / "src", SIZE_PX)
    assert snapshot(tmp_path, tmp_path / "ws") == before
    assert record.reasons == {"missing_file": 3, "unsafe_name": 1}
    assert scan_tar(path).ignored == {"unsafe_path": 3, "link": 2, "device": 1, "hidden": 1}


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def snapshot(folder: Path, without: Path) -> list[str]:
    return sorted(str(each) for each in folder.rglob("*") if without not in (each, *each.parents))


def test_a_truncated_tar_loses_only_what_lies_behind_and_is_named(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "source", range(6), 2)
    second = source / "data" / "shard-001.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    record = import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    assert record.reasons == {"missing_file": 2}
    assert "shard-001.tar ends inside" in record.source
    places = open_patch_dataset(tmp_path / "ws").places
    assert places.loc[~places["valid"], "place_id"].tolist() == [4, 5]
    assert "ends inside" in scan_tar(second).damage
    second.write_bytes(whole)
    assert import_s2_100k(tmp_path / "ws", source, SIZE_PX).version != record.version


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.xz"])
def test_a_truncated_compressed_tar_yields_its_whole_members(tmp_path: Path, suffix: str) -> None:
    path = write_tar(tmp_path / f"satclip.{suffix}", members([0, 1, 2]), f"w:{suffix[-2:]}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "index.csv").write_text(index_text([0, 1, 2]))
    record = import_s2_100k(tmp_path / "ws", path, SIZE_PX)
    assert record.reasons == {"missing_file": 2} or record.reasons == {"missing_file": 2, "unreadable": 1}
    assert scan_tar(path).damage


def test_a_member_behind_the_last_whole_block_counts_as_there(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "satclip.tar", members([0]))
    end = scan_tar(path).members[0]
    path.write_bytes(path.read_bytes()[: end.offset + end.size_bytes])
    assert [each.name for each in scan_tar(path).members] == ["patch_0.tif"]
    path.write_bytes(path.read_bytes()[:-1])
    assert scan_tar(path).members == []


def test_a_claimed_size_is_never_believed(tmp_path: Path) -> None:
    claimed = tarfile.TarInfo("patch_1.tif")
    claimed.size = 8 << 40
    bomb = claimed.tobuf(tarfile.GNU_FORMAT) + b"x" * 512
    (tmp_path / "bomb.tar").write_bytes(bomb)
    assert "ends inside" in scan_tar(tmp_path / "bomb.tar").damage
    claimed.size = 1 << 80
    (tmp_path / "bomb.tar").write_bytes(claimed.tobuf(tarfile.GNU_FORMAT))
    assert "ends inside" in scan_tar(tmp_path / "bomb.tar").damage
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as stream:
        stream.write(bomb)
    assert "claims a compressed member" in scan_tar(tmp_path / "bomb.tar.gz").damage
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, MAX_EXTENDED_HEADER_BYTES + 1
    (tmp_path / "pax.tar").write_bytes(patch_tar(1) + header.tobuf() + b"\0" * (2 << 20))
    scan = scan_tar(tmp_path / "pax.tar")
    assert [each.name for each in scan.members] == ["patch_1.tif"]
    assert "extended header" in scan.damage


def patch_tar(number: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, f"patch_{number}.tif", patch_bytes(number))
    return buffer.getvalue()[: -(-len(patch_bytes(number)) // 512) * 512 + 512]


def test_a_large_member_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(index_text([1, 2]))
    archive = write_tar(tmp_path / "satclip.tar", [("patch_1.tif", b"\0" * (17 << 20)), *members([2])])
    assert import_s2_100k(tmp_path / "ws", archive, SIZE_PX).reasons == {"too_large": 1}


def test_a_member_is_never_read_beyond_the_size_of_a_patch(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("patch_1.tif")
    huge.size = 64 << 30
    path = tmp_path / "satclip.tar"
    with path.open("wb") as handle:
        handle.write(huge.tobuf())
        handle.truncate(512 + huge.size + 1024)  # sparse: nothing of it on disk
    (tmp_path / "index.csv").write_text(index_text([1]))
    source = open_source(path)
    assert source.size_bytes("patch_1.tif") == huge.size
    assert [len(data) for _, data in source.read(["patch_1.tif"])] == [MAX_FILE_BYTES + 1]


def test_a_file_that_is_no_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(index_text([1]))
    for name, match in (("a.tar", "no valid header"), ("a.tar.gz", "cannot be decompressed"), ("a.zip", "not a tar")):
        (tmp_path / name).write_bytes(b"no tar at all" * 100)
        with pytest.raises(DatasetError, match=match):
            import_s2_100k(tmp_path / "ws", tmp_path / name, SIZE_PX)
    with pytest.raises(DatasetError, match="no such file or folder"):
        import_s2_100k(tmp_path / "ws", tmp_path / "absent.tar", SIZE_PX)
    alone = write_tar(tmp_path / "alone" / "a.tar", members([1]))
    with pytest.raises(DatasetError, match=r"no index\.csv in it or beside it"):
        import_s2_100k(tmp_path / "ws", alone, SIZE_PX)


def test_names_of_gnu_and_pax_tars_are_read(tmp_path: Path) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{kind}.tar"
        folder = "deep/" * 25
        with tarfile.open(path, "w", format=kind) as archive:
            add(archive, f"{folder}patch_1.tif", b"abc")
            add(archive, "patch_2.tif", b"defg")
        found = [(each.name, each.size_bytes) for each in scan_tar(path).members]
        assert found == [("patch_1.tif", 3), ("patch_2.tif", 4)]
        with tarfile.open(path) as archive:
            expected = [each.offset_data for each in archive.getmembers()]
        assert [each.offset for each in scan_tar(path).members] == expected


def test_a_name_that_is_there_twice_is_a_row_with_its_reason(tmp_path: Path) -> None:
    source = write_sharded(tmp_path / "source", [1, 2, 3], 3)
    write_tar(source / "data" / "shard-003.tar", members([2]))
    with (source / "index.csv").open("a") as index:
        index.write("1,2,u,patch_3.tif\n")
    record = import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    assert record.reasons == {"duplicate_file": 1, "duplicate_row": 1}
    places = open_patch_dataset(tmp_path / "ws").places
    assert places["reason"].tolist() == ["", "duplicate_file", "", "duplicate_row"]


def test_tars_that_were_unpacked_beside_themselves_are_no_duplicates(tmp_path: Path) -> None:
    source = write_loose(tmp_path / "source", [1, 2, 3])
    (source / "images" / "patch_2.tif").unlink()
    write_tar(source / "data" / "shard-000.tar", members([1, 2]))
    write_tar(source / "satclip.tar", members([1, 2, 3]))
    assert_imported(tmp_path / "ws", source, [1, 2, 3])


def test_small_and_misshapen_members_are_rows_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(index_text(range(1, 8)))
    wrong = patch_bytes(3, 64)
    vrt = b"<VRTDataset rasterXSize='48' rasterYSize='48'></VRTDataset>".ljust(20_000)
    entries = [("patch_1.tif", b"II*\0" * 100), ("patch_2.tif", vrt), ("patch_3.tif", wrong), *members([4, 5, 6, 7])]
    archive = write_tar(tmp_path / "satclip.tar", entries)
    record = import_s2_100k(tmp_path / "ws", archive, SIZE_PX)
    assert record.reasons == {"too_small": 1, "unreadable": 1, "wrong_shape": 1}
    assert not open_patch_dataset(tmp_path / "ws").read_dn(2).any()


def test_an_import_that_was_broken_off_goes_on_at_its_next_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.patches.store import PatchStore

    source = write_sharded(tmp_path / "source", range(600), 4)
    write, written = PatchStore.write_shard, []

    def once(store: PatchStore, shard: int, *rest: object) -> None:
        if written == [0]:
            raise KeyboardInterrupt
        written.append(shard)
        write(store, shard, *rest)

    monkeypatch.setattr(PatchStore, "write_shard", once)
    with pytest.raises(KeyboardInterrupt):
        import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    written.append(-1)
    assert import_s2_100k(tmp_path / "ws", source, SIZE_PX).num_valid == 600
    assert written == [0, -1, 1, 2]
    np.testing.assert_array_equal(open_patch_dataset(tmp_path / "ws").read_dn(599), pixels(599))


def test_a_compressed_tar_in_another_order_than_the_index_is_told_and_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = list(range(300))
    (tmp_path / "index.csv").write_text(index_text(numbers))
    archive = write_tar(tmp_path / "satclip.tar.gz", members(numbers[::-1]), "w:gz")
    assert import_s2_100k(tmp_path / "ws", archive, SIZE_PX).num_valid == 300
    assert "is read once per shard" in caplog.text
    np.testing.assert_array_equal(open_patch_dataset(tmp_path / "ws").read_dn(299), pixels(299))


def test_an_offset_can_be_inferred_from_pixels_which_is_another_version(tmp_path: Path) -> None:
    source = write_loose(tmp_path / "source", [1, 2])
    plain = import_s2_100k(tmp_path / "ws", source, SIZE_PX)
    assert open_patch_dataset(tmp_path / "ws").places["offset_source"].tolist() == ["unknown", "unknown"]
    first = int(pixels(1)[0, 0, 0])
    inferred = import_s2_100k(
        tmp_path / "ws", source, SIZE_PX, infer_offset=lambda dn: (-1000 * int(dn[0, 0, 0] == first), "inferred")
    )
    assert inferred.version != plain.version
    assert open_patch_dataset(tmp_path / "ws").places["boa_add_offset"].tolist() == [-1000, 0]
