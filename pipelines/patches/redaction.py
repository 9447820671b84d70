"""Keeps tokens, which travel in query strings, out of log lines and messages."""

import logging
import re

_QUERY = re.compile(r"\?[^\s'\"]*")

LOGGERS_WITH_ADDRESSES = (
    "aiohttp.client", "aiohttp.internal", "asyncio", "rasterio._base", "rasterio._env", "rasterio._err", "rasterio._io",
    "rasterio._vsiopener", "rasterio.session", "requests", "urllib3.connection", "urllib3.connectionpool",
    "urllib3.util.retry",
)  # fmt: skip
"""Loggers of other libraries whose lines may show the address of a request."""


def redact(text: object) -> str:
    """The text without query strings."""
    return _QUERY.sub("?...", str(text))


_FORMATTER = logging.Formatter()


class _Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(_FORMATTER.formatException(record.exc_info))
            record.exc_info = None
        return True


_REDACT = _Redact()


def redact_loggers() -> None:
    """Cuts query strings, and tracebacks that may hold them, out of other libraries' log lines; safe to repeat."""
    for name in LOGGERS_WITH_ADDRESSES:
        if _REDACT not in logging.getLogger(name).filters:
            logging.getLogger(name).addFilter(_REDACT)
