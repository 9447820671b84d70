import logging
import pickle
import threading
from collections import Counter

import planetary_computer.sas
import pytest
from planetary_computer.settings import Settings

from pipelines.errors import SceneReadError
from pipelines.redaction import redact_logs
from pipelines.sampling.catalog_profile import load_profile
from pipelines.sampling.signing import PlanetaryComputerSigner, S3Signer, choose_signer
from tests.loopback.cog import CogServer, Tokens
from tests.loopback.faults import Exchange, LoopbackServer, slow, status

SIGNER = PlanetaryComputerSigner("sentinel2l2a01", "sentinel2-l2")
HREF = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/35/B02.tif"


class Issuer(LoopbackServer):
    """A token endpoint in this process, which keeps the keys that it was shown."""

    def __init__(self, lifetime_s: float) -> None:
        super().__init__()
        self.tokens = Tokens(lifetime_s)
        self.keys: Counter[str | None] = Counter()

    def answer(self, exchange: Exchange) -> None:
        self.keys[exchange.headers.get("Ocp-Apim-Subscription-Key")] += 1
        exchange.reply_json(self.tokens.issue())


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch):
    with Issuer(2_700.0) as server:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.url}/sas/token")
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "SECRET-KEY")
        monkeypatch.setattr(planetary_computer.sas, "TOKEN_CACHE", {})
        Settings.get.cache_clear()
        yield server
        Settings.get.cache_clear()


def test_one_token_serves_all_threads_and_carries_the_subscription_key(issuer: Issuer) -> None:
    issuer.script("/sas/*", slow(0.2))
    signed: list[str] = []
    threads = [threading.Thread(target=lambda: signed.append(SIGNER.sign(HREF))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(issuer.tokens.signatures) == 1
    assert len(set(signed)) == 1
    assert signed[0].startswith(f"{HREF}?st=")
    assert issuer.keys == {"SECRET-KEY": 1}


@pytest.mark.parametrize(("lifetime_s", "num_tokens"), [(2_700.0, 1), (299.0, 1), (30.0, 1), (0.0, 3)])
def test_a_token_is_renewed_before_its_end_and_a_short_one_is_not_fetched_every_time(
    issuer: Issuer, lifetime_s: float, num_tokens: int
) -> None:
    issuer.tokens.lifetime_s = lifetime_s
    signer = PlanetaryComputerSigner("a", "c")
    for _ in range(3):
        signer.sign("https://a.blob.core.windows.net/c/B02.tif")
    assert len(issuer.tokens.signatures) == num_tokens


def test_a_token_about_to_end_is_renewed(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = PlanetaryComputerSigner("a", "c")
    first = signer.sign("https://a.blob.core.windows.net/c/B02.tif")
    monkeypatch.setattr(planetary_computer.sas.SASToken, "ttl", lambda self: 301.0)
    assert signer.sign("https://a.blob.core.windows.net/c/B02.tif") == first
    monkeypatch.setattr(planetary_computer.sas.SASToken, "ttl", lambda self: 299.0)
    assert signer.sign("https://a.blob.core.windows.net/c/B02.tif") != first


@pytest.mark.parametrize(
    "href",
    [
        "https://elsewhere.example/sentinel2-l2/B02.tif",
        "https://other.blob.core.windows.net/sentinel2-l2/B02.tif",
        "https://sentinel2l2a01.blob.core.windows.net/private/B02.tif",
        "http://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B02.tif",
        "https://sentinel2l2a01.blob.core.windows.net.evil.example/sentinel2-l2/B02.tif",
        "s3://sentinel2-l2/B02.tif",
    ],
)
def test_a_token_is_shown_to_no_other_container(issuer: Issuer, href: str) -> None:
    assert SIGNER.sign(href) == href
    assert issuer.tokens.signatures == []


def test_a_dropped_token_is_fetched_anew(issuer: Issuer) -> None:
    first = SIGNER.sign(HREF)
    SIGNER.renew()
    assert SIGNER.sign(HREF) != first


@pytest.mark.parametrize("code", [401, 404])
def test_an_endpoint_without_tokens_is_told_without_the_key(
    issuer: Issuer, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    redact_logs()
    issuer.script("/sas/*", status(code, times=None))
    with pytest.raises(
        SceneReadError, match=r"token endpoint for .*HTTPError, expected a token; check PC_SDK"
    ) as caught:
        SIGNER.sign(HREF)
    assert caught.value.__cause__ is None
    assert "SECRET" not in str(caught.value) + caplog.text


def test_a_throttled_endpoint_is_asked_again(issuer: Issuer) -> None:
    issuer.script("/sas/*", status(429, times=1), status(503, times=1))
    assert SIGNER.sign(HREF) != HREF


def test_signers_show_no_secret_and_travel_to_workers(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    signed = SIGNER.sign(HREF)
    token = signed.partition("?")[2]
    shown = repr(SIGNER) + str(SIGNER) + caplog.text
    assert token not in shown
    assert "sig=" not in shown
    assert "SECRET" not in shown
    assert pickle.loads(pickle.dumps(SIGNER)) == SIGNER


def test_signed_files_can_be_read(token_endpoint: CogServer) -> None:
    import requests

    (token_endpoint.folder / "B02.tif").write_bytes(b"pixels")
    href = f"{token_endpoint.cog_url}/B02.tif"
    assert requests.get(href, timeout=5).status_code == 403
    assert requests.get(SIGNER.sign(href), timeout=5).content == b"pixels"


def test_s3_keys_stay_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("cdse")
    signer = choose_signer({"id": "sentinel-2-l2a"}, "auto", profile)
    assert isinstance(signer, S3Signer)
    for name in profile.key_variables:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SceneReadError, match=r"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set.*export them"):
        signer.sign("s3://eodata/a/B02.jp2")
    assert signer.sign("https://download.dataspace.copernicus.eu/a") == "https://download.dataspace.copernicus.eu/a"
    for name in profile.key_variables:
        monkeypatch.setenv(name, "s3cr3t")
    assert signer.sign("s3://eodata/a/B02.jp2") == "s3://eodata/a/B02.jp2"
    assert signer.gdal_settings["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"
    assert "s3cr3t" not in repr(signer) + repr(dict(signer.gdal_settings)) + repr(profile)
