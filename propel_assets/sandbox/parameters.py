"""Query strings and JSON bodies, read as the API reads them.

A value that is not allowed is a ``Refusal``: status 400 and an object with a list of messages per field.

Source: PropelAuth/rust 65dbaf5, ``models/bad_fetch_users_by_query.rs`` and its siblings.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

Parameters = Mapping[str, Any]


class Refusal(Exception):
    """A response other than 200: its status, and a JSON body or None for an empty one."""

    def __init__(self, status: int, body: dict[str, list[str]] | None = None) -> None:
        """Keep status and body."""
        super().__init__(status, body)
        self.status = status
        self.body = body


def refuse(field: str, message: str) -> Refusal:
    """Return a 400 about one field."""
    return Refusal(400, {field: [message]})


def whole_number(parameters: Parameters, name: str, *, default: int, minimum: int) -> int:
    """Return a number, as digits or, in a JSON body, as a number."""
    value = parameters.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"\d{1,9}", str(value)) or int(value) < minimum:
        raise refuse(name, f"must be a whole number of at least {minimum}")
    return int(value)


def choice(parameters: Parameters, name: str, options: Sequence[str]) -> str:
    """Return one of ``options``; the first by default."""
    value = parameters.get(name, options[0])
    if value not in options:
        raise refuse(name, f"must be one of {', '.join(options)}")
    return value


def flag(parameters: Parameters, name: str) -> bool:
    """Return a literal ``true`` or ``false``; false by default."""
    return choice(parameters, name, ("false", "true")) == "true"


def text(parameters: Parameters, name: str) -> str | None:
    """Return a text; None when absent or empty."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise refuse(name, "must be a string")
    return value or None


def required_text(parameters: Parameters, name: str) -> str:
    """Return a required text."""
    value = text(parameters, name)
    if value is None:
        raise refuse(name, "is required")
    return value


def day(parameters: Parameters, name: str, default: date) -> date:
    """Return a day in the form YYYY-MM-DD."""
    value = text(parameters, name)
    if value is None:
        return default
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise refuse(name, "must be a day, YYYY-MM-DD")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise refuse(name, "must be a day, YYYY-MM-DD") from None


def texts(body: Parameters, name: str) -> list[str]:
    """Return the list of texts of a batch read. Its 400 names ``query``, as the API's does."""
    values = body.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise refuse("query", f"{name} must be a list of strings")
    return values
