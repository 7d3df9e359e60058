"""Errors of libraries are described by class, code, column and system reason, never by their text."""

import errno

import dlt
import duckdb
import pyarrow as pa
import pytest
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.load.exceptions import LoadClientJobFailed
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets.privacy.redaction import describe_error, describe_message, unexpected_error

NAME = "Alice Q. Smith"


def raised(action) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has classes of its own
        action()
    return caught.value


def duckdb_error(*statements: str) -> Exception:
    return raised(lambda: [duckdb.connect().execute(s).fetchall() for s in statements])


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (duckdb_error(f"SELECT '{NAME}'::BOOL"), "ConversionException"),
        (
            duckdb_error(
                "CREATE TABLE user_query (email TEXT NOT NULL, name TEXT); INSERT INTO user_query VALUES (NULL, 'A')"
            ),
            "ConstraintException (user_query.email)",
        ),
        (duckdb_error("ATTACH '/no/such/folder/x.db'"), "IOException (No such file or directory)"),
        (raised(lambda: pa.array([NAME]).cast(pa.int64())), "ArrowInvalid"),
        (OSError(errno.ENOSPC, NAME), "OSError (No space left on device)"),
    ],
)
def test_an_error_is_described_without_its_text(error, description) -> None:
    assert describe_error(error) == description


def test_the_wrappers_of_dlt_are_looked_through(tmp_path) -> None:
    inner = duckdb_error(f"SELECT '{NAME}'::BOOL")
    job = LoadClientJobFailed("1", "user_query.1", f"failed: {NAME}", DatabaseTerminalException(inner))
    pipeline = dlt.pipeline("redaction", pipelines_dir=str(tmp_path))
    assert describe_error(PipelineStepFailed(pipeline, "load", "1", job)) == "ConversionException"


def test_a_context_that_was_suppressed_is_not_described() -> None:
    def fail() -> None:
        try:
            int(NAME)
        except ValueError:
            raise KeyError(NAME) from None

    assert describe_error(raised(fail)) == "KeyError"


def test_an_unexpected_error_names_the_lines_of_code_and_quotes_nothing() -> None:
    text = str(unexpected_error(raised(lambda: int(NAME))))
    assert text.startswith("Unexpected ValueError at test_redaction.py:")
    assert NAME not in text


def test_a_message_without_its_error_is_described_by_known_names_only() -> None:
    text = f"Database Error in model dim_user: Conversion Error: Could not convert string '{NAME}' to BOOL"
    assert describe_message(text) == "Database Error, Conversion Error"
    assert describe_message(NAME) == "an unknown error"
