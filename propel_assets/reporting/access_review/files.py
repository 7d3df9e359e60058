"""The files of an access review: tables as CSV, and a page to print."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2

from propel_assets.errors import writing
from propel_assets.reporting.access_review.exceptions import DORMANT_DAYS
from propel_assets.reporting.access_review.model import USAGE_MAX_AGE, AccessReview, ExceptionKind, UsagePeriod, shown

MEMBERS, CHANGED, EXCEPTIONS, KEYS, PAGE = "members.csv", "changes.csv", "exceptions.csv", "api_keys.csv", "review.html"


Columns = Sequence[tuple[str, Callable[[Any], Any]]]
"""The columns of a file: the header, and the value of a record."""


def render_files(review: AccessReview) -> dict[str, bytes]:
    """Return the files of the review by name. They are the same for the same period."""
    names = {org.org_id: org.name for org in review.orgs}
    changes = [*(change for org in review.orgs for change in org.changes), *review.user_changes]
    files = {
        MEMBERS: _csv(_member_columns(review, names), review.members()),
        CHANGED: _csv(_change_columns(review, names), changes),
        EXCEPTIONS: _csv(_exception_columns(names), review.exceptions),
        KEYS: _csv(_key_columns(review.usage), review.api_keys),
    }
    return {**files, PAGE: _page(review, names, files)}


def _member_columns(review: AccessReview, names: Mapping[str, str]) -> Columns:
    return [
        *_fields("org_id"),
        ("org", lambda m: names[m.org_id]),
        *_user_columns(review),
        *_fields("role"),
        ("additional_roles", lambda m: ", ".join(m.additional_roles)),
        *_fields("through"),
        *_interval("role_since", "role_since"),
        *_interval("member_since", "member_since"),
        *_fields("enabled", "locked", "mfa_enabled", "last_active_day"),
        ("exceptions", lambda m: ", ".join(exception.kind for exception in m.exceptions)),
    ]


def _change_columns(review: AccessReview, names: Mapping[str, str]) -> Columns:
    org: Columns = [*_fields("org_id"), ("org", lambda c: names.get(c.org_id, ""))]
    return [*org, *_user_columns(review), *_fields("change", "old", "new"), *_interval("changed", "at")]


def _exception_columns(names: Mapping[str, str]) -> Columns:
    return [
        ("exception", lambda e: e.kind),
        *_fields("org_id"),
        ("org", lambda e: names.get(e.org_id, "")),
        ("user_or_key_id", lambda e: e.subject),
        *_fields("detail"),
    ]


def _key_columns(usage: UsagePeriod | None) -> Columns:
    return [
        *_fields("api_key_id", "owner_kind", "user_id", "org_id", "created_at", "expires_at"),
        *_fields("validations", "usage_from"),
        ("usage_to", lambda k: usage.last if usage and k.usage_from else None),
        ("usage_loaded_at", lambda k: usage.loaded_at if usage and k.usage_from else None),
        ("exceptions", lambda k: ", ".join(exception.detail for exception in k.exceptions)),
    ]


def _user_columns(review: AccessReview) -> Columns:
    """Return the columns of the user: the id, and where they were requested the name and the e-mail address."""
    if not review.people:
        return _fields("user_id")
    unknown = ("", "")
    return [
        *_fields("user_id"),
        ("name", lambda record: review.people.get(record.user_id, unknown)[0]),
        ("email", lambda record: review.people.get(record.user_id, unknown)[1]),
    ]


def _fields(*names: str) -> Columns:
    return [(name, attrgetter(name)) for name in names]


def _interval(header: str, name: str) -> Columns:
    return [(f"{header}_{end}", attrgetter(f"{name}.{end}")) for end in ("after", "before")]


def _page(review: AccessReview, names: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    """Return the page to print, with the digests of the other files."""
    summarized_kind = ExceptionKind.MEMBER_WITHOUT_MFA
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("review.html").read_text(encoding="utf-8"))
    return template.render(
        review=review,
        names=names,
        digests={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        shown=shown,
        kinds=Counter(e.kind for e in review.exceptions),
        listed=[e for e in review.exceptions if e.kind != summarized_kind],
        without_mfa=Counter(e.org_id for e in review.exceptions if e.kind == summarized_kind),
        dormant_days=DORMANT_DAYS,
        usage_max_age_days=USAGE_MAX_AGE.days,
    ).encode()


def write_review(review: AccessReview, folder: Path) -> list[Path]:
    """Write the files of the review into ``folder``, which is created.

    Raises:
        PropelError: a file cannot be written.
    """
    files = {folder / name: content for name, content in render_files(review).items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    return [*files]


def _csv(columns: Columns, records: Iterable[Any]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([header for header, _ in columns])
    writer.writerows([[_cell(value(record)) for _, value in columns] for record in records])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Return a cell. Spreadsheets run text that begins like a formula, so such text gets an apostrophe."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    value = shown(value) if isinstance(value, datetime) else value
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
