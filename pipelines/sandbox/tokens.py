"""Access tokens in the form of a storage account's shared access signatures."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode

_STAMP = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class TokenIssuer:
    """Issues tokens and tells live ones from others.

    Attributes:
        secret: Key of the signature.
        lifetime_s: Seconds from issue to expiry.
    """

    secret: bytes
    lifetime_s: float

    def issue(self, container: str, now: datetime) -> dict[str, str]:
        """A token for one container, as the Planetary Computer's endpoint answers: ``token`` and ``msft:expiry``."""
        start = (now - timedelta(days=1)).strftime(_STAMP)
        # Rounded up to whole seconds, the resolution of the signature's fields.
        expiry = (now + timedelta(seconds=self.lifetime_s) + timedelta(microseconds=999_999)).strftime(_STAMP)
        fields = {"st": start, "se": expiry, "sp": "rl", "sv": "2024-05-04", "sr": "c", "sr_name": container}
        fields["sig"] = self._signature(start, expiry, container)
        return {"token": urlencode(fields), "msft:expiry": expiry}

    def is_live(self, query: str, container: str, now: datetime) -> bool:
        """Whether a URL's query carries a token for the container that is valid now."""
        fields = {key: values[0] for key, values in parse_qs(query).items()}
        start, expiry, signature = (fields.get(key, "") for key in ("st", "se", "sig"))
        if not hmac.compare_digest(signature, self._signature(start, expiry, container)):
            return False
        return start <= now.astimezone(UTC).strftime(_STAMP) < expiry

    def _signature(self, start: str, expiry: str, container: str) -> str:
        message = "\n".join((start, expiry, container)).encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()
