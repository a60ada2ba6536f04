"""The order of migrations: by code point, as the protocol specifies, or by number.

A migration in its own folder is sorted by the name of the folder.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FLYWAY = re.compile(r"V([0-9]+(?:[._][0-9]+)*)__")
_DIGITS = re.compile(r"[0-9]+")
_DATE = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_DASHED_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})-([0-9]{6})(?![0-9])")  # Diesel
_MAX_DIGITS = 40  # int() is quadratic in the number of digits

NumericKey = tuple[bool, list[int], str]


def order_key(names: Iterable[str], *, numeric: bool) -> Callable[[str], Any]:
    """Return the sort key for these names: their code points, or their numbers."""
    return numeric_key(names) if numeric else _folder


def numeric_key(names: Iterable[str]) -> Callable[[str], NumericKey]:
    """Return a sort key for these names: the number after their common prefix, then what follows in code point order.

    A date without a time (8 digits) counts as midnight when it is compared with a date and time (14 digits). A name
    without a number sorts after all others.
    """
    prefix = _common_prefix(names)

    def key(path: str) -> NumericKey:
        name = _folder(path)
        if flyway := _FLYWAY.match(name):
            return False, flyway_version(flyway[1]), name[flyway.end() :]
        if dashed := _DASHED_DATE.match(name, prefix):
            return False, [int("".join(dashed.groups()))], name[dashed.end() :]
        digits = _DIGITS.match(name, prefix)
        if not digits or len(digits[0]) > _MAX_DIGITS:
            return True, [], name
        number = digits[0]
        if len(number) == 8 and _DATE.fullmatch(number):
            number += "000000"
        return False, [int(number)], name[digits.end() :]

    return key


def _folder(path: str) -> str:
    return path.partition("/")[0]


def is_versioned(name: str) -> bool:
    """Return whether the name is that of a versioned Flyway migration, such as `V1_2__users.sql`."""
    return bool(_FLYWAY.match(name))


def flyway_version(text: str) -> list[int]:
    """Return a version such as `1.2` or `1_2` as numbers; trailing zeros do not count, so 1.0 is 1."""
    numbers = [int(part[:_MAX_DIGITS]) for part in re.split("[._]", text)]
    while len(numbers) > 1 and not numbers[-1]:
        del numbers[-1]
    return numbers


def have_fixed_width(names: Sequence[str]) -> bool:
    """Return whether the numbers after the common prefix all have the same width: both orders are then the same."""
    prefix = _common_prefix(names)
    widths = {len(digits[0]) for name in names if (digits := _DIGITS.match(name, prefix))}
    return len(widths) <= 1 and not any(name.startswith("V") for name in names)


def same_version(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two Flyway migrations, in numeric order, that have the same version, or None."""
    versions = sorted((flyway_version(match[1]), name) for name in names if (match := _FLYWAY.match(name)))
    return next(((first, second) for (one, first), (two, second) in pairwise(versions) if one == two), None)


def _common_prefix(names: Iterable[str]) -> int:
    """Return the length of the prefix that all names share, without the digits at its end."""
    shared = os.path.commonprefix([name for name in names if _DIGITS.search(name)])  # noqa: RUF071  by character
    return 0 if shared[:1].isdigit() else len(shared.rstrip("0123456789"))
