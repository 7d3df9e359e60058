"""Everything that this package sets in dlt for the whole process, in one place."""

import logging
import re
from functools import cache

from propel_assets.privacy.redaction import without_personal_data
from propel_assets.settings import disable_dlt_telemetry
from propel_assets.warehouse.dlt_compat import summarize_job_message
from propel_assets.warehouse.json_columns import register_json_writers

# Messages about intended differences: JSON columns arrive as text, and Arrow tables are written as JSON Lines.
EXPECTED_MESSAGES = ("when merging arrow schema with dlt schema", "native writer could not be found")


@cache
def set_up_dlt() -> None:
    """Set telemetry, log filters and JSON writers. Later calls do nothing."""
    disable_dlt_telemetry()
    log = logging.getLogger("dlt")
    log.addFilter(_is_unexpected)
    log.addFilter(_remove_personal_data)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())  # dlt uses the first handler that its logger has
    for handler in log.handlers:
        handler.handleError = _drop_record
    register_json_writers()


def _drop_record(record: logging.LogRecord) -> None:
    """Drop a record that cannot be written.

    `logging` would print the traceback, which has the text of the database's error: dlt logs while it handles errors.
    """


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for the warnings of dlt about differences that are intended."""
    return not any(expected in str(record.msg) for expected in EXPECTED_MESSAGES)


def _remove_personal_data(record: logging.LogRecord) -> bool:
    """Reduce a message of dlt to one line: databases quote rows in their errors, and dlt logs every retried job."""
    first, *rest = record.getMessage().splitlines() or [""]
    text = without_personal_data(summarize_job_message(first))
    error_classes = [line.split(":")[0] for line in rest if re.match(r"(\w+\.)+[A-Z]\w*(:|$)", line)]
    record.msg = f"{text}: {error_classes[-1]}" if error_classes else text
    record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
    return True
