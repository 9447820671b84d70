import logging

import pytest

from pipelines.patches.redaction import LOGGERS_WITH_ADDRESSES, redact, redact_loggers

ADDRESS = "https://account.blob.core.windows.net/c/B04.tif?st=2022&sig=a%2Bb%2FverySecret"


def test_queries_are_cut_and_the_rest_stays() -> None:
    assert redact(f"GET '{ADDRESS}' failed") == "GET 'https://account.blob.core.windows.net/c/B04.tif?...' failed"


@pytest.mark.parametrize("name", LOGGERS_WITH_ADDRESSES)
def test_no_library_logs_a_query(name: str, caplog: pytest.LogCaptureFixture) -> None:
    redact_loggers()
    redact_loggers()
    caplog.set_level(logging.DEBUG, logger=name)
    log = logging.getLogger(name)
    log.debug("GET %s", ADDRESS)
    try:
        raise ValueError(ADDRESS)
    except ValueError:
        log.exception("failed")
    assert "verySecret" not in caplog.text
    assert "ValueError" in caplog.text
    assert len(caplog.records) == 2
