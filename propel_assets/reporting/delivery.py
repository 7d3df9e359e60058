"""Deliver alerts to a webhook, by e-mail over SMTP, and to services of apprise, within one total time limit.

A socket timeout limits each read, not the delivery: a server that sends one byte a second never reaches it. Each
delivery therefore runs in a process of its own, which is killed at the limit, whatever it waits for: DNS, TLS, headers.

urllib3 and the standard library send to the first two. The extra `apprise` adds its services; it does not replace them:
docs/decisions/0016-apprise-beside-webhook-and-smtp.md. A service that opens incidents receives one message for each
cause, and resolves the incident when a message with the same title reports success.
"""

import contextlib
import dataclasses
import json
import logging
import re
import resource
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import urllib3

from propel_assets.errors import NotInstalled, PropelError, SettingsError
from propel_assets.settings import AlertSettings, is_loopback, variable_of

SECONDS = 20.0  # in total, over all targets: they are delivered to at the same time
SOCKET_SECONDS = 10.0  # a silent server is reported by its own error before the total limit
SMTP_PORTS = {"smtp": 587, "smtps": 465}
STARTTLS = ("always", "never")
WEBHOOK, EMAIL = "webhook", "e-mail"
MAX_URLS = 10
INCIDENTS = "map"  # the action of apprise that resolves an incident when a message reports success
SECONDS_BETWEEN = 0.5  # between two messages: PagerDuty accepts 120 a minute
WEBHOOK_CHARACTERS = 1_900  # Discord refuses a message of more than 2,000
ACCEPTED = b"\n"  # what the child process prints for each message
CHILD_BYTES = 1 << 29  # apprise reads a response completely: an endless one ends here
# `sys.path` is passed on, so that the child imports this package from where the parent has it.
CHILD = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job.pop('path'); "
    "from propel_assets.reporting.delivery import run_child; run_child(**job)"
)


class Message(NamedTuple):
    """One message: a title, a text, and whether it reports only what is resolved."""

    title: str
    text: str
    is_resolved: bool = False


class Failure(NamedTuple):
    """Why a target did not accept a message, and how many messages it accepted before."""

    reason: str
    delivered: int = 0


class AlertTarget(NamedTuple):
    """A target of alerts.

    Attributes:
        send: sends one message; raises `NotDelivered` with a reason that contains no secret.
        opens_incidents: whether the service opens an incident for each title, and resolves it by a later message.
        max_characters: limit of the text of one message; None: no limit, or it is cut by `send`.
    """

    send: Callable[[Message], None]
    opens_incidents: bool = False
    max_characters: int | None = None


class NotDelivered(PropelError):
    """A target did not accept an alert."""


class PartlyDelivered(PropelError):
    """A target accepted an alert, but not for all recipients. Another try would send it to the others again."""


def deliver(settings: AlertSettings, messages: Mapping[str, Sequence[Message]]) -> dict[str, Failure]:
    """Deliver messages to each target, by its name, in order.

    Returns:
        The first failure of each target that failed: it is not sent the messages after it.
    """

    def deliver_to(target: str) -> Failure | None:
        job = {"path": sys.path, "settings": dataclasses.asdict(settings), "target": target}
        job |= {"messages": messages[target]}
        try:
            ended = subprocess.run(  # noqa: S603 - our own code; secrets go to its standard input
                [sys.executable, "-c", CHILD],
                input=json.dumps(job).encode(),
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            delivered = (error.stdout or b"").count(ACCEPTED)
            return Failure(f"Alert target {target}: no success within {SECONDS:g} s.", delivered)
        except OSError as error:
            return Failure(
                f"Alert target {target}: the process that delivers could not be started ({type(error).__name__})."
            )
        reason = ended.stdout.lstrip(ACCEPTED).decode()
        if ended.returncode:
            reason = f"Alert target {target}: the process that delivers ended with status {ended.returncode}."
        return Failure(reason, len(ended.stdout) - len(ended.stdout.lstrip(ACCEPTED))) if reason else None

    if not messages:
        return {}
    with ThreadPoolExecutor(len(messages)) as pool:
        failures = dict(zip(messages, pool.map(deliver_to, messages), strict=True))
    return {target: failure for target, failure in failures.items() if failure}


def run_child(settings: Mapping[str, Any], target: str, messages: Sequence[Sequence[Any]]) -> None:
    """Deliver to one target: print `ACCEPTED` for each message, and the reason of the first failure.

    The child process of `deliver` runs this.
    """
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    output = sys.stdout.buffer
    try:
        usable, unusable = targets(AlertSettings(**settings))
        if target in unusable:
            raise SettingsError(unusable[target])
        send = usable[target].send
        for message in messages:
            send(Message(*message))
            output.write(ACCEPTED)
            output.flush()
    except PropelError as error:
        output.write(ACCEPTED if isinstance(error, PartlyDelivered) else b"")
        output.write(str(error).encode(errors="replace"))


def targets(settings: AlertSettings) -> tuple[dict[str, AlertTarget], dict[str, str]]:
    """Return the configured targets by name, and why the others cannot be used. The reasons do not quote secrets."""
    builders: dict[str, Callable[[], AlertTarget]] = {}
    if settings.webhook:
        builders[WEBHOOK] = partial(_webhook, settings.webhook)
    if settings.smtp or settings.recipients.strip():
        builders[EMAIL] = partial(_email, settings)
    urls = _apprise_urls(settings.apprise)
    builders |= {name: partial(_apprise, url, name) for name, url in list(urls.items())[:MAX_URLS]}
    usable: dict[str, AlertTarget] = {}
    unusable: dict[str, str] = {}
    if left_out := list(urls)[MAX_URLS:]:
        unusable[left_out[0]] = (
            f"{variable_of('alert_apprise')} has {len(urls)} URLs. Only the first {MAX_URLS} are used. "
            "Remove the others."
        )
    for name, build in builders.items():
        try:
            usable[name] = build()
        except SettingsError as error:
            unusable[name] = str(error)
    return usable, unusable


def _apprise_urls(text: str) -> dict[str, str]:
    """Return the URLs in ``text``, separated as apprise separates them, by the name of their target."""
    urls = [url for url in re.split(r"[\s,]+(?=[A-Za-z][\w+.-]*://)", text.strip()) if url]
    return {f"apprise URL {number}": url for number, url in enumerate(urls, 1)}


def _split(url: str, variable: str, schemes: tuple[str, ...], example: str) -> tuple[SplitResult, str]:
    """Return the parts of ``url`` and its host, or refuse it without quoting it."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise SettingsError(f"{variable} cannot be read as a URL; it must look like {example}.") from None
    if parts.scheme not in schemes or not host:
        raise SettingsError(f"{variable} must look like {example}; it has no {' or '.join(schemes)} scheme or no host.")
    return parts, host


def _webhook(url: str) -> AlertTarget:
    variable = variable_of("alert_webhook")
    parts, host = _split(url, variable, ("https", "http"), "https://hooks.slack.com/services/...")
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(f"{variable} must begin with https; plain http is only for a server on this machine.")

    def send(message: Message) -> None:
        # Slack and compatible services interpret these three characters as markup.
        escaped = f"*{message.title}*\n{message.text}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        try:
            response = urllib3.request(  # the body is not read: it may be endless
                "POST",
                url,
                json={"text": escaped},
                timeout=SOCKET_SECONDS,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:  # their texts may contain the path
            raise NotDelivered(f"The webhook at {host} could not be reached: {type(error).__name__}.") from None
        if response.status >= 300:
            hint = f" Make a new one and set {variable}." if response.status in {401, 403, 404, 410} else ""
            raise NotDelivered(f"The webhook at {host} returned {response.status}.{hint}")

    return AlertTarget(send, max_characters=WEBHOOK_CHARACTERS)


def _email(settings: AlertSettings) -> AlertTarget:
    variable = variable_of("alert_smtp")
    if not settings.smtp:
        raise SettingsError(f"{variable_of('alert_to')} has recipients, but {variable}, the mail server, is not set.")
    parts, host = _split(settings.smtp, variable, tuple(SMTP_PORTS), "smtp://user:password@smtp.example.com:587")
    # A mail server on this machine has no certificate that can be verified.
    chosen = parse_qs(parts.query).get("starttls", ["never" if is_loopback(host) else "always"])[0]
    if chosen not in STARTTLS:
        raise SettingsError(f"starttls in {variable} must be {' or '.join(STARTTLS)}.")
    encrypted = parts.scheme == "smtps" or chosen == "always"
    if parts.username and not encrypted and not is_loopback(host):
        raise SettingsError(f"{variable} would send the password in clear text: leave out starttls=never.")
    sender = _addresses(settings.sender, variable_of("alert_from"))
    recipients = _addresses(settings.recipients, variable_of("alert_to"))
    port = parts.port or SMTP_PORTS[parts.scheme]

    def connect() -> smtplib.SMTP:
        if parts.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=SOCKET_SECONDS, context=ssl.create_default_context())
        return smtplib.SMTP(host, port, timeout=SOCKET_SECONDS)

    def send(message: Message) -> None:
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = " ".join(message.title.split()), sender[0], ", ".join(recipients)
        mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="propel-assets")
        mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers
        mail.set_content(message.text)
        try:
            with contextlib.closing(connect()) as server:
                if parts.scheme == "smtp" and encrypted:
                    server.starttls(context=ssl.create_default_context())
                if parts.username:
                    server.login(unquote(parts.username), unquote(parts.password or ""))
                refused = server.send_message(mail)
                # The mail is accepted: an error or a delay from here on must not send it a second time.
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.putcmd("QUIT")
        except (smtplib.SMTPException, MessageError, OSError) as error:  # their texts may contain addresses of people
            code = getattr(error, "smtp_code", "")
            why = f"{type(error).__name__}{f' {code}' if code else ''}"
            raise NotDelivered(f"The mail server {host}:{port} did not accept it: {why}.") from None
        if refused:
            raise PartlyDelivered(
                f"The mail server {host}:{port} refused {len(refused)} of {len(recipients)} recipients: correct "
                f"{variable_of('alert_to')}. The others received it."
            )

    return AlertTarget(send)


def _apprise(url: str, name: str) -> AlertTarget:
    variable = variable_of("alert_apprise")
    try:
        import apprise
    except ImportError:
        raise NotInstalled(f"{variable} cannot be used: Apprise is not installed", "apprise") from None
    asset = apprise.AppriseAsset(app_id="propel-assets", http_redirects=False, async_mode=False)
    with _quiet(apprise.logger):
        service: Any = apprise.Apprise.instantiate(url, asset=asset)
    schema = url.split("://", 1)[0].lower()
    if service is None:
        raise SettingsError(
            f"{variable}: {name} is not a URL that apprise accepts, or the service needs another package. The page of "
            "the service in apprise's documentation has both."
        )
    plain, encrypted = service.protocol, service.secure_protocol
    if encrypted and schema in _tuple(plain) and not is_loopback(service.host or ""):
        use = f"{_tuple(encrypted)[0]}://"
        raise SettingsError(f"{variable}: {name} is not encrypted. Write {use} instead of {schema}://.")

    # Not the defaults of apprise: a recovery resolves its incident, a text that is too long is cut instead of refused,
    # and several messages fit into the time limit.
    given = re.findall(r"[?&](\w+)=", url)
    if "action" not in given and INCIDENTS in service.template_args.get("action", {}).get("values", ()):
        service.action = INCIDENTS
    if "overflow" not in given:
        service.overflow_mode = apprise.OverflowMode.TRUNCATE
    service.request_rate_per_sec = min(service.request_rate_per_sec, SECONDS_BETWEEN)

    def send(message: Message) -> None:
        kind = apprise.NotifyType.SUCCESS if message.is_resolved else apprise.NotifyType.WARNING
        with _quiet(apprise.logger) as statuses:
            accepted = service.notify(body=message.text, title=message.title, notify_type=kind)
        if not accepted:
            status = f" It returned {statuses[-1]}." if statuses else ""
            raise NotDelivered(f"The {name} ({schema}) did not accept it.{status}")

    return AlertTarget(send, getattr(service, "action", "") == INCIDENTS)


def _tuple(schemas: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (schemas,) if isinstance(schemas, str) else schemas or ()


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[list[str]]:
    """Keep what apprise logs out of every log: it quotes URLs and responses. Yield the HTTP statuses in it."""
    statuses: list[str] = []

    def keep_status(record: logging.LogRecord) -> bool:
        statuses.extend(re.findall(r"error=(\d{3})\b", record.getMessage()))
        return False

    logger.addFilter(keep_status)
    try:
        yield statuses
    finally:
        logger.removeFilter(keep_status)


def _addresses(text: str, variable: str) -> list[str]:
    found = [address for _, address in getaddresses([text])]
    if not found or not all(
        address.count("@") == 1 and address.isprintable() and " " not in address for address in found
    ):
        raise SettingsError(f"{variable} must be set to e-mail addresses, for example data@example.com.")
    return found
