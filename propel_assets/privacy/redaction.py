"""Text without personal data: what reaches logs, errors, checks and alerts passes through here."""

import logging
import re

EMAIL = re.compile(r"[^\s@'\"<>(),;:]+@[^\s@'\"<>(),;:]+")


def without_personal_data(text: str) -> str:
    """Return ``text`` on one line, without the e-mail addresses in it."""
    return EMAIL.sub("<e-mail>", " ".join(text.split()))


class RedactingFilter(logging.Filter):
    """Cuts dlt's log to one line each: databases quote people's rows in their errors, and dlt logs each it retries."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change ``record``; it is always logged."""
        first, *rest = record.getMessage().splitlines() or [""]
        what, _, _ = EMAIL.sub("<e-mail>", first).partition(" with message ")
        kinds = [line.split(":")[0] for line in rest if re.match(r"(\w+\.)+[A-Z]\w*(:|$)", line)]
        record.msg = f"{what}: {kinds[-1]}" if kinds else what
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        return True
