"""The percent-encoding of URIs: `urllib.parse` knows more, and takes 2 ms to import."""

from __future__ import annotations

import re

_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-")


def encoded(text: str, *, safe: bytes = b"") -> str:
    """Encode each byte that is not unreserved or `safe`, those too that were no UTF-8 and are surrogates now."""
    kept = _UNRESERVED.union(safe)
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in text.encode(errors="surrogateescape"))


def decoded(text: str, *, errors: str = "replace") -> str:
    """Decode what is encoded; `errors` says what becomes of bytes that are no UTF-8."""
    return _ENCODED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode("utf-8", errors), text)
