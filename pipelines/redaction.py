"""Keeping signatures, tokens and keys out of messages and logs."""

import logging
import re
from typing import Final

_QUERY: Final = re.compile(r"\?[^\s'\"<>]+")
_USER: Final = re.compile(r"//[^/\s'\"@]+@")
_HEADER: Final = re.compile(
    r"(?i)((?:proxy-)?authorization|ocp-apim-subscription-key|x-api-key|cookie)(['\"]?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^,;'\"\n}]+)"
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_NAMED: Final = re.compile(
    r"(?i)\b(sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|token|access_token|refresh_token|"
    r"api_?key|subscription_?key|password|client_secret|aws_secret_access_key|aws_access_key_id|aws_session_token)"
    r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;}<>]+"
)

LOGGERS_WITH_ADDRESSES: Final = (
    "rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base", "rasterio.env", "rasterio.session",
    "urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection", "requests", "pystac_client",
    "pystac_client.client", "pystac_client.item_search", "pystac_client.stac_api_io", "aiohttp.client",
    "aiohttp.internal", "asyncio", "rasterio._vsiopener",
)  # fmt: skip
"""Loggers of other libraries that write addresses or headers; a logger's filter does not reach its children."""


def redacted(text: object) -> str:
    """The text without query strings, credentials in addresses, authorization headers and named secrets.

    Cuts more than it must: a query string goes as a whole, whatever its parameters are called.
    """
    cut = _QUERY.sub("?...", str(text))
    cut = _USER.sub("//...@", cut)
    cut = _HEADER.sub(r"\1\2...", cut)
    cut = _BEARER.sub(r"\1 ...", cut)
    return _NAMED.sub(r"\1\2...", cut)


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = redacted(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            message += f" ({redacted(repr(record.exc_info[1]))})"
        record.msg, record.args, record.exc_info, record.exc_text = message, None, None, None
        return True


_REDACTION: Final = _Redaction()


def redact_logs() -> None:
    """Makes the loggers of other libraries that write addresses cut the secrets out of them; may be called often."""
    for name in LOGGERS_WITH_ADDRESSES:
        logging.getLogger(name).addFilter(_REDACTION)
