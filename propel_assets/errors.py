"""The errors that users see. A message says what was attempted, what happened, what to do."""

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

    def __init_subclass__(
        cls, title: str = "", retry_may_help: bool = False, concerns_every_scan: bool = False
    ) -> None:
        """Set what is given; the rest is inherited."""
        cls.title = title or cls.title
        cls.retry_may_help |= retry_may_help
        cls.concerns_every_scan |= concerns_every_scan


class SettingsError(PropelError, title="a setting is missing or invalid", concerns_every_scan=True):
    """A setting is missing or has a value that is not allowed. No request was sent."""


def install_extra(extra: str) -> str:
    """Return what to do to install an extra. How depends on where propel-assets was installed from."""
    return f"Install propel-assets with the extra `{extra}`"


class NotInstalled(SettingsError, title="an extra is not installed"):
    """What was attempted needs an extra that is not installed."""

    def __init__(self, what_failed: str, extra: str) -> None:
        """``what_failed`` is a sentence without its full stop."""
        super().__init__(f"{what_failed}. {install_extra(extra)}.")


class ApiError(PropelError, title="PropelAuth's response cannot be used"):
    """PropelAuth's response cannot be used."""


class PermanentApiError(ApiError, title="PropelAuth refused a request"):
    """A retry cannot succeed: status 400, 401, 403, 404 or another, or a response of an unexpected shape.

    ``status`` is the HTTP status, or 0 when the body cannot be used.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep the HTTP ``status``."""
        super().__init__(message)
        self.status = status


class KeyRefused(PermanentApiError, title="PropelAuth refused the API key", concerns_every_scan=True):
    """The API key is not valid in this environment."""


class TransientApiError(ApiError, title="PropelAuth returned errors", retry_may_help=True):
    """All retries failed: 429, 5xx, a lost connection, a timeout or a truncated response. A later run may succeed."""


class ResponseTooLarge(TransientApiError, title="PropelAuth's response is too large"):
    """The body exceeds the limit. A list can be read with a smaller page size."""


class Unreachable(TransientApiError, title="PropelAuth cannot be reached", concerns_every_scan=True):
    """No connection to the server."""


class UnprovedScan(PropelError, title="a scan cannot be proved complete", retry_may_help=True):
    """No attempt of a scan could be proved complete. Nothing was replaced."""


class LossRefused(PropelError, title="too many rows are missing"):
    """The row count fell by more than the allowed loss."""


class OtherEnvironment(LossRefused, title="the tables belong to another environment", concerns_every_scan=True):
    """The tables hold the data of another environment."""


class UnexpectedError(PropelError, title="an unexpected error occurred"):
    """A defect: an error that no code of ours handles. Its text is not copied, because it may quote rows."""


class WarehouseError(PropelError, title="the warehouse refused the load"):
    """The destination cannot be used."""


class WarehouseUnreachable(
    WarehouseError, title="no connection to the warehouse", retry_may_help=True, concerns_every_scan=True
):
    """No connection to the destination: it is down, or refuses the log-in; or the connection was lost."""


class WarehouseConflict(WarehouseError, title="other work in the warehouse prevented the load", retry_may_help=True):
    """Other work on the same tables prevented it."""


class OtherPipeline(WarehouseError, title="the dataset has tables of another dlt pipeline", concerns_every_scan=True):
    """The dataset has tables of another dlt pipeline. Nothing was read."""


class ErasureListChanged(WarehouseError, title="a person was erased while a load was reading", retry_may_help=True):
    """A person was erased while a load was reading. Nothing was replaced."""


class WriteLockLost(WarehouseError, title="the write lock was lost", retry_may_help=True):
    """The connection that holds the write lock was closed while a load was reading. Nothing was replaced."""


class WarehouseClosed(WarehouseError, title="the database cannot be opened", concerns_every_scan=True):
    """The database cannot be opened."""

    def with_outcome(self, outcome: str) -> "WarehouseClosed":
        """Return this error with a sentence about what the tables have after it."""
        return type(self)(f"{self} {outcome}".rstrip())


class WarehouseBusy(WarehouseClosed, title="another process has the database open", retry_may_help=True):
    """Another process still had the database open at the end of the time limit."""


class ErasureIncomplete(PropelError, title="an erasure failed or is not complete"):
    """Erasures failed, or something still names the person."""


class WebhookStoreError(PropelError, title="the webhook store cannot be used", retry_may_help=True):
    """The webhook store cannot be used."""


class WebhookStoreFull(WebhookStoreError, title="the webhook store is full"):
    """The webhook store has reached its limit: events have to be applied before it accepts others.

    Attributes:
        stored: which of the message ids are stored already.
    """

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
