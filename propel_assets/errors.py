"""Every error this package raises on purpose. Each message says what was asked, what came back, what to do.

PropelError
├── SettingsError            a setting is missing or has an impossible value
├── ApiError                 PropelAuth answered something we cannot use
│   ├── PermanentApiError    asking again cannot help: 400, 401, 403, 404, an answer of the wrong shape
│   │   └── KeyRefused       the backend key is not one of this environment
│   └── TransientApiError    asking again later may help: 429, 5xx, resets, time-outs, truncated answers
│       └── Unreachable      no server could be reached at all
├── UnprovedScan             every pass over a list left room for a missing row: nothing is replaced
├── LossRefused              a complete answer has lost more rows than is believed without being told to
│   └── OtherEnvironment     the tables hold what another environment has
├── WarehouseError           the destination cannot be used
│   └── WarehouseClosed      the database cannot be opened
│       └── WarehouseBusy    another process holds it
└── WebhookStoreError        the webhook store cannot be used
    └── WebhookStoreFull     it has reached its limit
"""

from collections.abc import Iterator


class PropelError(Exception):
    """Base of all: its text is a sentence for the person who started the run."""

    retry_may_help = False
    concerns_every_scan = False
    """Whether every other scan would fail for the same reason, so that none need be tried."""


class SettingsError(PropelError):
    """A setting is missing or has an impossible value; no request was made."""

    concerns_every_scan = True


class ApiError(PropelError):
    """PropelAuth answered something we cannot use."""


class PermanentApiError(ApiError):
    """Asking again cannot help. ``status`` is the HTTP status, 0 when the body was at fault."""

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep the HTTP ``status`` beside the sentence."""
        super().__init__(message)
        self.status = status


class KeyRefused(PermanentApiError):
    """The backend key is not one of this environment."""

    concerns_every_scan = True


class TransientApiError(ApiError):
    """All retries are spent; a later run may succeed."""

    retry_may_help = True


class Unreachable(TransientApiError):
    """No server could be reached at all."""

    concerns_every_scan = True


class UnprovedScan(PropelError):
    """Every pass over a list left room for a missing row."""

    retry_may_help = True


class LossRefused(PropelError):
    """A complete answer has lost more rows than is believed without being told to."""


class OtherEnvironment(LossRefused):
    """The tables hold what another environment has."""

    concerns_every_scan = True


class WarehouseError(PropelError):
    """The destination cannot be used."""


class WarehouseClosed(WarehouseError):
    """The database cannot be opened, whatever is to be written to it."""

    concerns_every_scan = True


class WarehouseBusy(WarehouseClosed):
    """Another process holds the database and did not let go in time: it has been waited for already."""


class WebhookStoreError(PropelError):
    """The webhook store cannot be used."""

    retry_may_help = True


class WebhookStoreFull(WebhookStoreError):
    """The webhook store has reached its limit: events have to be applied before it accepts others."""


def find_cause(error: BaseException) -> PropelError | None:
    """Return the first error of ours below ``error``: dlt and Dagster wrap what we raise."""
    return next((cause for cause in _causes(error) if isinstance(cause, PropelError)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
