import logging

import pytest

from pipelines.redaction import LOGGERS_WITH_ADDRESSES, redact_logs, redacted


@pytest.mark.parametrize(
    "text",
    [
        "GET https://a.blob.core.windows.net/c/B02.tif?st=1&se=2&sig=SECRET%2B/3D failed",
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET",
        "'https://b/k?token=SECRET'",
        "sig=SECRET",
        "token: SECRET, expiry: 3",
        '{"token": "SECRET", "msft:expiry": "2030"}',
        "{'Ocp-Apim-Subscription-Key': 'SECRET'}",
        "Headers: {'User-Agent': 'x', 'Authorization': 'Bearer SECRET', 'Accept': '*/*'}",
        'Authorization: AWS4-HMAC-SHA256 Credential=SECRET/20220101, Signature=SECRET',
        "Authorization: Basic SECRETSECRET==",
        "Bearer SECRET.SECRET-SECRET",
        "https://user:SECRET@host/path",
        "aws_access_key_id = SECRET, AWS_SESSION_TOKEN=SECRET",
        "password=SECRET",
    ],
)  # fmt: skip
def test_secrets_are_cut_out(text: str) -> None:
    assert "SECRET" not in redacted(text)


@pytest.mark.parametrize(
    "text", ["https://host/path/B02.tif: status 503", "is it there? no", "processing baseline 05.10"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("name", LOGGERS_WITH_ADDRESSES)
def test_other_libraries_log_no_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    redact_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger(name).debug('%s "GET %s HTTP/1.1" 200', "https://host:443", "/c/B02.tif?sig=SECRET")
    try:
        raise OSError("https://host/B02.tif?token=SECRET")
    except OSError:
        logging.getLogger(name).exception("reading failed")
    assert "SECRET" not in caplog.text
    assert "B02.tif?..." in caplog.text
    assert "reading failed (OSError('https://host/B02.tif?...'))" in caplog.text
