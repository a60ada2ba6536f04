from __future__ import annotations

import builtins
import hashlib
import importlib
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.migrations import checksum as sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Without = Callable[..., None]

CONTENTS = [b"", b"SELECT 1;", b"x" * sha256.MOST_SLOWLY_BYTES, b"y", b"\0\xff" * 1000]


@pytest.fixture
def without() -> Iterator[Without]:
    """Load the module where others are not found."""
    with pytest.MonkeyPatch.context() as patch:
        importing: Callable[..., Any] = builtins.__import__

        def load(*missing: str) -> None:
            def refuse(name: str, *rest: Any) -> Any:
                if name in missing:
                    raise ImportError(name)
                return importing(name, *rest)

            patch.setattr(builtins, "__import__", refuse)
            importlib.reload(sha256)

        yield load
    importlib.reload(sha256)


@pytest.mark.parametrize("missing", [(), ("_sha2",), ("_sha2", "_sha256")], ids=["none", "new", "both"])
def test_it_is_the_same_whoever_takes_it(without: Without, missing: tuple[str, ...]) -> None:
    without(*missing)
    one = sha256.Sha256()
    assert [one.hexdigest(content) for content in CONTENTS] == [hashlib.sha256(c).hexdigest() for c in CONTENTS]


def test_openssl_is_asked_for_what_would_take_long_and_for_nothing_else(without: Without) -> None:
    without("hashlib")
    one = sha256.Sha256()
    one.hexdigest(b"x" * sha256.MOST_SLOWLY_BYTES)
    with pytest.raises(ImportError):
        one.hexdigest(b"x")
