"""SHA-256 without OpenSSL as long as there is little to hash: loading that takes 2.5 ms, a twentieth of a short run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:  # what hashlib itself falls back to
    from _sha2 import sha256 as _built_in  # type: ignore[import-not-found]  # since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256 as _built_in  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as _built_in

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SLOWLY_BYTES = 1 << 19  # what the built-in one is slower at than OpenSSL, in as much time as that takes to load


class Sha256:
    """Hashes contents one after the other: the first half MiB of them with what the interpreter has built in."""

    def __init__(self) -> None:
        self._left = MOST_SLOWLY_BYTES
        self._new: Callable[[bytes], Any] = _built_in

    def hexdigest(self, content: bytes) -> str:
        """Return the hash of this content."""
        if self._left >= 0:
            self._left -= len(content)
            if self._left < 0:
                from hashlib import sha256

                self._new = sha256
        digest: str = self._new(content).hexdigest()
        return digest
