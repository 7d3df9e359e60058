"""Plays many schedules, several at once, and says what was lost. Exit status 1: something was."""

import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click

from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.soak.play import Outcome, play
from propel_assets_tests.soak.schedule import draw


@click.command()
@click.option("--schedules", default=300, show_default=True, type=click.IntRange(min=1), help="How many to play.")
@click.option("--seed", default=1, show_default=True, help="Of the first; the others follow it.")
@click.option("--only", type=int, help="Play the schedule of this seed alone, and show it.")
@click.option("--processes", default=3, show_default=True, type=click.IntRange(min=1), help="Schedules at a time.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An empty folder to play in; else a new temporary one.",
)
def main(schedules: int, seed: int, only: int | None, processes: int, folder: Path | None) -> None:
    """Play fault schedules against `propel-assets load`, DuckDB and PostgreSQL."""
    seeds = [only] if only is not None else list(range(seed, seed + schedules))
    if only is not None:
        click.echo(draw(only))
    home = folder or Path(tempfile.mkdtemp(prefix="soak-"))
    outcomes: list[Outcome] = []
    with Postgres() as server, ProcessPoolExecutor(processes) as pool:
        for done in as_completed(pool.submit(play, draw(s), home, str(server.folder)) for s in seeds):
            outcomes.append(done.result())
            for problem in outcomes[-1].problems:
                click.echo(f"PROBLEM {problem}\n  what is left: {home / str(outcomes[-1].seed)}")
            if len(outcomes) % 10 == 0 or outcomes[-1].problems:
                click.echo(f"{len(outcomes)} of {len(seeds)} schedules, {_lost(outcomes)}", err=True)
    _show(seeds, outcomes)
    if any(outcome.problems for outcome in outcomes):
        raise SystemExit(1)


def _lost(outcomes: list[Outcome]) -> str:
    lost, users, altered = (sum(getattr(o, name) for o in outcomes) for name in ("lost", "users", "altered"))
    return f"lost {lost:,} / {users:,} users, altered {altered:,} values"


def _show(seeds: list[int], outcomes: list[Outcome]) -> None:
    faults = sum((o.faults for o in outcomes), Counter[str]())
    ended = sum((o.ended for o in outcomes), Counter[str]())
    click.echo(f"faults injected: {faults.total():,}")
    for name, number in sorted(faults.items()):
        click.echo(f"  {number:>6,}  {name}")
    click.echo(f"loads: {ended.total():,} ({', '.join(f'{number:,} {how}' for how, number in sorted(ended.items()))})")
    wrong = sorted(o.seed for o in outcomes if o.problems)
    click.echo(f"schedules: {len(outcomes)}, seeds {seeds[0]} to {seeds[-1]}, with a problem: {wrong or 'none'}")
    click.echo(_lost(outcomes))


if __name__ == "__main__":
    main()
