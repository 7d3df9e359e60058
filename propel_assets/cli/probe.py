"""The command `propel-assets probe`."""

import json
from pathlib import Path

import click

from propel_assets.cli.arguments import current_settings
from propel_assets.cli.rendering import log, progress_bar
from propel_assets.errors import writing


@click.command(short_help="Measure how this tenant's API behaves.")
@click.option(
    "--output",
    default="propelauth-profile.json",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default=True,
    help="The profile to write.",
)
def probe(output: Path) -> None:
    """Send at most 52 read-only requests and show how PropelAuth behaves where its documentation does not say.

    Writes a profile without personal data, ids, keys or the host. A sandbox replays it.

    \b
    Examples:
      propel-assets probe
      propel-assets probe --output acme.json
      propel-assets sandbox --profile acme.json
    """
    from propel_assets.settings import require_credentials
    from propel_assets.source.probe.questions import probe as run_probe

    tenant = require_credentials(current_settings()).tenant
    with progress_bar() as (progress, _):
        result = run_probe(tenant, progress)
    for finding in result.findings:
        click.echo(f"{finding.number}. {finding.question}")
        click.echo(f"   Found: {finding.answer or 'not settled'}.")
        click.echo(f"   propel-assets: {finding.action}\n")
    with writing(output):
        output.write_text(json.dumps(result.profile, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    log(f"{result.requests} requests. The profile is in {output}.")
