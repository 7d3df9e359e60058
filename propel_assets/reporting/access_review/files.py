"""The files of an access review: tables as CSV, and a page to print."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from propel_assets.errors import PropelError
from propel_assets.reporting.access_review.build import DORMANT_DAYS
from propel_assets.reporting.access_review.model import AccessReview, shown

MEMBERS, CHANGED, EXCEPTIONS, KEYS, PAGE = "members.csv", "changes.csv", "exceptions.csv", "api_keys.csv", "review.html"


def render_files(review: AccessReview) -> dict[str, bytes]:
    """Return the files of the review by name. They are the same for the same period."""
    names = {org.org_id: org.name for org in review.orgs}

    def person(user_id: str) -> list[str]:
        return [user_id, *(review.people.get(user_id, ("", "")) if review.people else ())]

    who = ["user_id", *(["name", "email"] if review.people else [])]
    files = {
        MEMBERS: _csv(
            [
                "org_id",
                "org",
                *who,
                "role",
                "additional_roles",
                "through",
                "role_since_after",
                "role_since_before",
                "member_since_after",
                "member_since_before",
                "enabled",
                "locked",
                "mfa_enabled",
                "last_active_day",
                "exceptions",
            ],
            [
                [
                    m.org_id,
                    names[m.org_id],
                    *person(m.user_id),
                    m.role,
                    ", ".join(m.additional_roles),
                    m.through,
                    shown(m.role_since.after),
                    shown(m.role_since.before),
                    shown(m.member_since.after),
                    shown(m.member_since.before),
                    m.enabled,
                    m.locked,
                    m.mfa_enabled,
                    m.last_active_day,
                    ", ".join(m.flags),
                ]
                for m in review.members()
            ],
        ),
        CHANGED: _csv(
            ["org_id", "org", *who, "change", "old", "new", "changed_after", "changed_before"],
            [
                [
                    c.org_id,
                    names.get(c.org_id, ""),
                    *person(c.user_id),
                    c.change,
                    c.old,
                    c.new,
                    shown(c.at.after),
                    shown(c.at.before),
                ]
                for c in [*(c for org in review.orgs for c in org.changes), *review.user_changes]
            ],
        ),
        EXCEPTIONS: _csv(
            ["exception", "org_id", "org", "user_or_key_id", "detail"],
            [[e.kind, e.org_id, names.get(e.org_id, ""), e.subject, e.detail] for e in review.exceptions],
        ),
        KEYS: _csv(
            ["api_key_id", "owner_kind", "user_id", "org_id", "created_at", "expires_at", "validations", "exceptions"],
            [
                [
                    k.api_key_id,
                    k.owner_kind,
                    k.user_id,
                    k.org_id,
                    shown(k.created_at),
                    shown(k.expires_at),
                    k.validations,
                    ", ".join(k.flags),
                ]
                for k in review.api_keys
            ],
        ),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    template = Path(__file__).with_name("review.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        review=review,
        names=names,
        digests=digests,
        shown=shown,
        kinds=Counter(e.kind for e in review.exceptions),
        listed=[e for e in review.exceptions if e.kind != "Member without MFA"],
        without_mfa=Counter(e.org_id for e in review.exceptions if e.kind == "Member without MFA"),
        dormant_days=DORMANT_DAYS,
    )
    return {**files, PAGE: page.encode()}


def write_review(review: AccessReview, folder: Path) -> list[Path]:
    """Write the files of the review into ``folder``, which is created.

    Raises:
        PropelError: a file cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in render_files(review).items():
            path = folder / name
            path.write_bytes(content)
            written.append(path)
    except OSError as error:
        raise PropelError(f"Cannot write {folder}: {error.strerror}. Choose another --output.") from error
    return written


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Return a cell. Spreadsheets run text that begins like a formula, so such text gets an apostrophe."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
