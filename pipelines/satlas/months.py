"""Calendar months as ``YYYY-MM``, which sort as text."""

import re
from collections.abc import Iterable
from typing import Final

_PATTERN: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


def validate_month(month: str) -> str:
    """The month as given.

    Raises:
        ValueError: It is not of the form YYYY-MM.
    """
    if not _PATTERN.fullmatch(month):
        raise ValueError(f"month {month!r} is not of the form YYYY-MM, such as 2022-10")
    return month


def month_number(month: str) -> int:
    """Months since year 0, so that neighbors differ by one."""
    year, number = validate_month(month).split("-")
    return int(year) * 12 + int(number) - 1


def month_name(number: int) -> str:
    """The month of a number of `month_number`."""
    return f"{number // 12:04d}-{number % 12 + 1:02d}"


def months_between(months: Iterable[str]) -> list[str]:
    """Every month from the first to the last of those given, in order; none where none is given."""
    numbers = [month_number(month) for month in months]
    return [month_name(number) for number in range(min(numbers), max(numbers) + 1)] if numbers else []
