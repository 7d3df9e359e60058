"""How an alert leaves: to a webhook, and by e-mail over SMTP.

urllib3 and the standard library do it. Dagster's Slack integration wants a bot's token instead of a webhook, and sends
nothing but to Slack; apprise knows a hundred services, of which these two protocols reach nearly all.
"""

import smtplib
import ssl
from collections.abc import Callable, Mapping
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import urllib3

from propel_assets.errors import PropelError, SettingsError
from propel_assets.settings import Settings, is_loopback, variable_of

SECONDS = 20.0
SMTP_PORTS = {"smtp": 587, "smtps": 465}
STARTTLS = ("always", "never")
TARGETS = ("webhook", "e-mail")

Deliver = Callable[[str, str], None]
"""Takes a title and a text; raises `NotDelivered` with a reason that holds no secret."""


class NotDelivered(PropelError):
    """An alert did not leave, or was not taken. A later try may succeed."""

    retry_may_help = True


def targets(settings: Settings) -> Mapping[str, Deliver]:
    """Return where alerts go, by name: `webhook`, `e-mail`, both or none.

    Raises:
        SettingsError: one cannot be used as it is set; the text does not quote what is secret.
    """
    found: dict[str, Deliver] = {}
    if settings.alert_webhook:
        found[TARGETS[0]] = _webhook(settings.alert_webhook)
    if settings.alert_smtp:
        found[TARGETS[1]] = _email(settings)
    return found


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


def _webhook(url: str) -> Deliver:
    variable = variable_of("alert_webhook")
    parts, host = _split(url, variable, ("https", "http"), "https://hooks.slack.com/services/...")
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(f"{variable} must begin with https; plain http is only for a server on this machine.")

    def deliver(title: str, text: str) -> None:
        # Slack reads these three as markup, and so does whatever takes its payload.
        escaped = f"*{title}*\n{text}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        try:
            answer = urllib3.request(
                "POST", url, json={"text": escaped}, timeout=SECONDS, retries=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:  # their texts may hold the path
            raise NotDelivered(f"The webhook at {host} could not be reached: {type(error).__name__}.") from None
        if answer.status >= 300:
            hint = f" Make a new one and set {variable}." if answer.status in {401, 403, 404, 410} else ""
            raise NotDelivered(f"The webhook at {host} answered {answer.status}.{hint}")

    return deliver


def _email(settings: Settings) -> Deliver:
    variable = variable_of("alert_smtp")
    parts, host = _split(settings.alert_smtp, variable, tuple(SMTP_PORTS), "smtp://user:password@smtp.example.com:587")
    # A mail server on this machine has no certificate that anybody would know it by.
    chosen = parse_qs(parts.query).get("starttls", ["never" if is_loopback(host) else "always"])[0]
    if chosen not in STARTTLS:
        raise SettingsError(f"starttls in {variable} must be {' or '.join(STARTTLS)}.")
    encrypted = parts.scheme == "smtps" or chosen == "always"
    if parts.username and not encrypted and not is_loopback(host):
        raise SettingsError(f"{variable} would send the password in clear text: leave out starttls=never.")
    sender = _addresses(settings.alert_from, variable_of("alert_from"))
    receivers = _addresses(settings.alert_to, variable_of("alert_to"))
    port = parts.port or SMTP_PORTS[parts.scheme]

    def connect() -> smtplib.SMTP:
        if parts.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=ssl.create_default_context())
        return smtplib.SMTP(host, port, timeout=SECONDS)

    def deliver(title: str, text: str) -> None:
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = " ".join(title.split()), sender[0], ", ".join(receivers)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="propel-assets")
        message["Auto-Submitted"] = "auto-generated"  # no out-of-office answers
        message.set_content(text)
        try:
            with connect() as server:
                if parts.scheme == "smtp" and encrypted:
                    server.starttls(context=ssl.create_default_context())
                if parts.username:
                    server.login(unquote(parts.username), unquote(parts.password or ""))
                server.send_message(message)
        except (smtplib.SMTPException, MessageError, OSError) as error:  # their texts may hold people's addresses
            code = getattr(error, "smtp_code", "")
            why = f"{type(error).__name__}{f' {code}' if code else ''}"
            raise NotDelivered(f"The mail server {host}:{port} did not take it: {why}.") from None

    return deliver


def _addresses(text: str, variable: str) -> list[str]:
    found = [address for _, address in getaddresses([text])]
    if not found or not all(
        address.count("@") == 1 and address.isprintable() and " " not in address for address in found
    ):
        raise SettingsError(f"{variable} must be set to e-mail addresses, for example data@example.com.")
    return found
