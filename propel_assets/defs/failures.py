"""Errors as Dagster failures. Dagster stores the text and the causes of every error that leaves an op."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from propel_assets.errors import PropelError
from propel_assets.privacy.redaction import unexpected_error


def as_failure(error: PropelError) -> dg.Failure:
    """Return ``error`` as a failure. Dagster retries it only if a retry can help."""
    return dg.Failure(
        description=str(error), metadata={"error": type(error).__name__}, allow_retries=error.retry_may_help
    )


@contextmanager
def convert_errors() -> Iterator[None]:
    """Raise every error as a failure with a text of ours. The text of other errors may quote rows.

    Raises:
        dg.Failure: an error was raised inside the block.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except PropelError as error:
        raise as_failure(error) from None
    except Exception as error:
        raise as_failure(unexpected_error(error)) from None
