"""Redaction of text that reaches logs, errors, checks and alerts."""

import logging
import re

EMAIL = re.compile(r"[^\s@'\"<>(),;:]+@[^\s@'\"<>(),;:]+")


def without_personal_data(text: str) -> str:
    """Return ``text`` on one line, without the e-mail addresses in it."""
    return EMAIL.sub("<e-mail>", " ".join(text.split()))


class RedactingFilter(logging.Filter):
    """Shortens each record of dlt's log to one line: databases quote rows in their errors, and dlt logs each retry."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change ``record``. It is always logged."""
        first, *rest = record.getMessage().splitlines() or [""]
        text, _, _ = EMAIL.sub("<e-mail>", first).partition(" with message ")
        classes = [line.split(":")[0] for line in rest if re.match(r"(\w+\.)+[A-Z]\w*(:|$)", line)]
        record.msg = f"{text}: {classes[-1]}" if classes else text
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        return True
