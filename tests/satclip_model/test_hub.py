import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from satclip_model.errors import CheckpointError
from satclip_model.hub import HubName, parse_hub_name, resolve
from tests.loopback.faults import reset, status
from tests.loopback.hub import COMMIT, HubFileStub, HubServer
from tests.satclip_model.official_files import official_content, write_official

pytestmark = pytest.mark.network

REPO = "microsoft/SatCLIP-ResNet18-L10"
FILE = "satclip-resnet18-l10.ckpt"
FILES = {
    FILE: HubFileStub(b"weights of a model", lfs=True),
    "small/model.safetensors": HubFileStub(b"tensors", lfs=True),
    "small/config.json": HubFileStub(b"{}", lfs=False),
    "config.json": HubFileStub(b"[]", lfs=False),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(REPO, dict(FILES), kind="model") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("microsoft/SatCLIP-ViT16-L40", HubName("microsoft/SatCLIP-ViT16-L40", "satclip-vit16-l40.ckpt")),
        ("microsoft/SatCLIP-ResNet50-L10", HubName("microsoft/SatCLIP-ResNet50-L10", "satclip-resnet50-l10.ckpt")),
        (
            "microsoft/SatCLIP-ViT16-L40@0ef2acc",
            HubName("microsoft/SatCLIP-ViT16-L40", "satclip-vit16-l40.ckpt", "0ef2acc"),
        ),
        ("me/my.model:runs/a b.ckpt", HubName("me/my.model", "runs/a b.ckpt")),
        ("me/model@v1.0:a.safetensors", HubName("me/model", "a.safetensors", "v1.0")),
    ],
)
def test_names_are_parsed(name: str, expected: HubName) -> None:
    assert parse_hub_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "runs/satclip.ckpt",
        "satclip.ckpt",
        "/absent/satclip.ckpt",
        "microsoft/SatCLIP-ViT16-L20",
        "a/b/c:d",
        "a/b:",
        "",
        "a/b:c:d",
    ],
)
def test_what_is_no_name_is_told(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file, and no name on the Hugging Face Hub; expected a path"):
        parse_hub_name(name)


def test_nothing_is_fetched_unasked(hub: HubServer) -> None:
    with pytest.raises(CheckpointError, match=r"download=True \(on the command line: --download\)"):
        resolve(REPO)
    assert hub.answered() == []
    assert hub.storage.answered() == []


def test_a_file_is_fetched_on_request_and_then_taken_from_the_cache(hub: HubServer) -> None:
    path = resolve(REPO, download=True)
    assert path.read_bytes() == FILES[FILE].body
    assert {each.path for each in hub.answered() if "/api/" not in each.path} == {f"/{REPO}/resolve/main/{FILE}"}
    assert any(each.method == "GET" for each in hub.storage.answered())
    hub.forget_requests()
    hub.storage.forget_requests()
    assert resolve(REPO) == path
    assert resolve(f"{REPO}:{FILE}", download=True) == path
    assert resolve(f"{REPO}@{COMMIT}:{FILE}") == path
    assert hub.answered() + hub.storage.answered() == []


def test_settings_come_with_safetensors(hub: HubServer) -> None:
    path = resolve(f"{REPO}:small/model.safetensors", download=True)
    assert path.with_name("config.json").read_bytes() == b"{}"
    hub.forget_requests()
    assert resolve(f"{REPO}:small/model.safetensors") == path
    assert hub.answered() == []


def test_local_paths_never_ask_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local = Path("microsoft") / "SatCLIP-ResNet18-L10"
    assert resolve(local, download=True) == local
    local.parent.mkdir()
    local.write_bytes(b"a local file")
    assert resolve(REPO, download=True) == local
    assert hub.answered() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{REPO}:absent.ckpt", "no such file or revision"),
        (f"{REPO}@{'0' * 40}", "no such file or revision"),
        ("someone/else:a.ckpt", "status 404"),
        ("some--one/else:a.ckpt", "no name on the Hugging Face Hub"),
    ],
)
def test_names_the_hub_does_not_know(hub: HubServer, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve(name, download=True)


def test_a_private_repository_asks_for_a_login(hub: HubServer) -> None:
    hub.token_wanted = "secret"
    with pytest.raises(CheckpointError, match="refused with status 401; check the name, and HF_TOKEN"):
        resolve(REPO, download=True)


@pytest.mark.parametrize("make", [lambda: status(503, None), lambda: reset(None)], ids=["503", "reset"])
@pytest.mark.parametrize("where", ["hub", "storage"])
def test_failures_of_the_network_say_what_to_do(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, where: str, make: Callable[[], object]
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    server = hub if where == "hub" else hub.storage
    server.script("*", make())
    with pytest.raises(CheckpointError, match=r"no usable answer from the Hugging Face Hub \(.*check the network"):
        resolve(REPO, download=True)


def test_offline_mode_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        resolve(REPO, download=True)
    assert hub.answered() == []


def test_a_whole_model_comes_by_its_name(hub: HubServer, tmp_path: Path) -> None:
    hub.files[FILE] = HubFileStub(write_official(tmp_path / "a.ckpt", official_content(2)).read_bytes())
    code = (
        "import sys, satclip_model\n"
        f"encoder = satclip_model.load_location_encoder({REPO!r}, download=True)\n"
        f"model, record = satclip_model.load_model({REPO!r})\n"
        "print(encoder.config.embedding_dim, encoder.dtype, model.config.embedding_dim, record)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "16 torch.float64 16 {}\n"
    assert sum(each.method == "GET" for each in hub.storage.answered()) == 1
