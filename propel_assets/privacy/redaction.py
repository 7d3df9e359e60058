"""Redaction of text that reaches logs, errors, checks and alerts."""

import re

EMAIL = re.compile(r"[^\s@'\"<>(),;:]+@[^\s@'\"<>(),;:]+")


def without_personal_data(text: str) -> str:
    """Return ``text`` on one line, without the e-mail addresses in it."""
    return EMAIL.sub("<e-mail>", " ".join(text.split()))
