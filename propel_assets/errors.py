"""The errors that users see. A message says what was attempted, what happened, what to do.

::

    PropelError
    ├── SettingsError            a setting is missing or has a value that is not allowed
    │   └── NotInstalled         something needs an extra that is not installed
    ├── ApiError                 PropelAuth's response cannot be used
    │   ├── PermanentApiError    a retry cannot succeed: 400, 401, 403, 404, a response of the wrong shape
    │   │   └── KeyRefused       the API key is not valid in this environment
    │   └── TransientApiError    a later run may succeed: 429, 5xx, connection reset, timeout, truncated response
    │       ├── ResponseTooLarge the body exceeds the limit: request fewer rows
    │       └── Unreachable      no connection to the server
    ├── UnprovedScan             no attempt of a scan could be proved complete: nothing is replaced
    ├── LossRefused              the row count fell by more than the allowed loss
    │   └── OtherEnvironment     the tables hold the data of another environment
    ├── UnexpectedError          a defect: an error that no code of ours handles
    ├── WarehouseError           the destination cannot be used
    │   ├── WarehouseUnreachable no connection to the destination
    │   ├── WarehouseConflict    other work on the same tables prevented it
    │   ├── OtherPipeline        the dataset has tables of another dlt pipeline
    │   ├── ErasureListChanged   a person was erased while a load was reading
    │   └── WarehouseClosed      the database cannot be opened
    │       └── WarehouseBusy    another process has it open
    ├── ErasureIncomplete        erasures failed, or something still names the person
    └── WebhookStoreError        the webhook store cannot be used
        └── WebhookStoreFull     it has reached its limit
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


class PropelError(Exception):
    """Base class. The text is a sentence for the person who started the run, without personal data."""

    title = "an error occurred"
    """What happened, as the title of an alert has it."""
    retry_may_help = False
    concerns_every_scan = False
    """Whether every other scan would fail for the same reason, so that no other is started."""


class SettingsError(PropelError):
    """A setting is missing or has a value that is not allowed. No request was sent."""

    title = "a setting is missing or invalid"
    concerns_every_scan = True


def install_extra(extra: str) -> str:
    """Return what to do to install an extra. How depends on where propel-assets was installed from."""
    return f"Install propel-assets with the extra `{extra}`"


class NotInstalled(SettingsError):
    """What was attempted needs an extra that is not installed."""

    title = "an extra is not installed"

    def __init__(self, what_failed: str, extra: str) -> None:
        """``what_failed`` is a sentence without its full stop."""
        super().__init__(f"{what_failed}. {install_extra(extra)}.")


class ApiError(PropelError):
    """PropelAuth's response cannot be used."""

    title = "PropelAuth's response cannot be used"


class PermanentApiError(ApiError):
    """A retry cannot succeed. ``status`` is the HTTP status, or 0 when the body cannot be used."""

    title = "PropelAuth refused a request"

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep the HTTP ``status``."""
        super().__init__(message)
        self.status = status


class KeyRefused(PermanentApiError):
    """The API key is not valid in this environment."""

    title = "PropelAuth refused the API key"
    concerns_every_scan = True


class TransientApiError(ApiError):
    """All retries failed. A later run may succeed."""

    title = "PropelAuth returned errors"
    retry_may_help = True


class ResponseTooLarge(TransientApiError):
    """The body exceeds the limit. A list can be read with a smaller page size."""

    title = "PropelAuth's response is too large"


class Unreachable(TransientApiError):
    """No connection to the server."""

    title = "PropelAuth cannot be reached"
    concerns_every_scan = True


class UnprovedScan(PropelError):
    """No attempt of a scan could be proved complete."""

    title = "a scan cannot be proved complete"
    retry_may_help = True


class LossRefused(PropelError):
    """The row count fell by more than the allowed loss."""

    title = "too many rows are missing"


class OtherEnvironment(LossRefused):
    """The tables hold the data of another environment."""

    title = "the tables belong to another environment"
    concerns_every_scan = True


class UnexpectedError(PropelError):
    """A defect: an error that no code of ours handles. Its text is not copied, because it may quote rows."""

    title = "an unexpected error occurred"


class WarehouseError(PropelError):
    """The destination cannot be used."""

    title = "the warehouse refused the load"


class WarehouseUnreachable(WarehouseError):
    """No connection to the destination: it is down, or refuses the log-in; or the connection was lost."""

    title = "no connection to the warehouse"
    retry_may_help = True
    concerns_every_scan = True


class WarehouseConflict(WarehouseError):
    """Other work on the same tables prevented it."""

    title = "other work in the warehouse prevented the load"
    retry_may_help = True


class OtherPipeline(WarehouseError):
    """The dataset has tables of another dlt pipeline. Nothing was read."""

    title = "the dataset has tables of another dlt pipeline"
    concerns_every_scan = True


class ErasureListChanged(WarehouseError):
    """A person was erased while a load was reading. Nothing was replaced."""

    title = "a person was erased while a load was reading"
    retry_may_help = True


class WriteLockLost(WarehouseError):
    """The connection that holds the write lock was closed while a load was reading. Nothing was replaced."""

    title = "the write lock was lost"
    retry_may_help = True


class WarehouseClosed(WarehouseError):
    """The database cannot be opened."""

    title = "the database cannot be opened"
    concerns_every_scan = True

    def with_outcome(self, outcome: str) -> "WarehouseClosed":
        """Return this error with a sentence about what the tables have after it."""
        return type(self)(f"{self} {outcome}".rstrip())


class WarehouseBusy(WarehouseClosed):
    """Another process still had the database open at the end of the time limit."""

    title = "another process has the database open"
    retry_may_help = True


class ErasureIncomplete(PropelError):
    """Erasures failed, or something still names the person."""

    title = "an erasure failed or is not complete"


class WebhookStoreError(PropelError):
    """The webhook store cannot be used."""

    title = "the webhook store cannot be used"
    retry_may_help = True


class WebhookStoreFull(WebhookStoreError):
    """The webhook store has reached its limit: events have to be applied before it accepts others.

    Attributes:
        stored: which of the message ids are stored already.
    """

    title = "the webhook store is full"
    stored: Collection[str] = ()


def find_cause(error: BaseException) -> PropelError | None:
    """Return the first `PropelError` in the chain of causes of ``error``: dlt and Dagster wrap our errors."""
    return next((cause for cause in causes_of(error) if isinstance(cause, PropelError)), None)


@contextmanager
def writing(path: Path, other: str = "--output") -> Iterator[None]:
    """Raise a `PropelError` for a file that cannot be written. ``other``: what to choose instead."""
    try:
        yield
    except OSError as error:
        raise PropelError(f"Cannot write {path}: {error.strerror}. Choose another {other}.") from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with one sentence and exit code 1 on a `PropelError`. For scripts."""
    try:
        yield
    except Exception as error:
        cause = find_cause(error)
        if cause is None:
            raise
        raise SystemExit(f"Error: {cause}") from None


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the chain of its causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
