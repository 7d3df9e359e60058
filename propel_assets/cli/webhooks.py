"""The command `propel-assets webhooks`, which serves the webhook receiver."""

import click

from propel_assets.cli.arguments import PORT, current_settings


@click.command(short_help="Receive the webhooks of PropelAuth.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8401, show_default=True, type=PORT, help="Port to listen on.")
def webhooks(host: str, port: int) -> None:
    """Receive PropelAuth's webhooks: verify each signature, store each event, then respond with 204.

    Serves POST /webhooks/propelauth, GET /healthz and GET /metrics. Needs PROPELAUTH_WEBHOOK_SECRET and the extra
    `webhooks`. Put a reverse proxy with TLS in front of it.

    \b
    Examples:
      PROPELAUTH_WEBHOOK_SECRET=whsec_... propel-assets webhooks
      PROPELAUTH_WEBHOOK_STORE=postgresql+psycopg2://user:password@host/db propel-assets webhooks --host 0.0.0.0
    """
    from propel_assets.errors import NotInstalled
    from propel_assets.settings import variable_to_set

    settings = current_settings()
    try:
        from propel_assets.webhooks.app import PATH, build_app, serve
        from propel_assets.webhooks.store import WebhookStore
    except ImportError:
        raise NotInstalled("The webhook receiver is not installed", "webhooks") from None
    store = WebhookStore(settings.webhook_store)
    try:
        variable = variable_to_set("webhook_secret", settings.environment)
        app = build_app(store, settings.webhook_secrets, secret_variable=variable)
        serve(app, host, port, lambda url: click.echo(f"Webhooks are received at {url}{PATH}. Ctrl-C stops."))
    finally:
        store.close()
