"""Play every scene, and print what each variant took and which bars are met. `make bench` runs this.

Variants run as whole processes, one after the other in turn, each in an empty folder; the sandbox runs in a process of
its own. Exit status: 0 however the bars stand, 1 when a variant failed or loaded other rows than the rest.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import click
from catalog import BOTH, BY_NAME, HERE, NOTHING, ROOT, Bar, Scene, Variant, bars, scenes
from measuring import CommandFailed, Cost, measured, served
from rich.console import Console
from rich.table import Table

NOW = "2026-11-24"
FULL, QUICK = (10_000, 100_000, 1_000_000), (1_000, 3_000, 10_000)
QUIET = {
    "PROPELAUTH_API_KEY": "sandbox-api-key",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "AIRBYTE_OFFLINE_MODE": "1",  # else it asks for a list of all connectors
    "SLING_DISABLE_TELEMETRY": "TRUE",
}


class WrongRows(Exception):
    """Two variants did not load the same."""


def environment(url: str, folder: Path, variant: Variant, database: str) -> dict[str, str]:
    """Return the environment of a run: this one without its settings, with a home in ``folder`` for everybody."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PROPEL", "DAGSTER", "DESTINATION__", "SOURCES__", "PYTHON", "VIRTUAL_ENV"))
    }
    here = {
        "PROPELAUTH_AUTH_URL": url,
        "DLT_DATA_DIR": str(folder / "dlt"),
        "DAGSTER_HOME": str(folder),
        "AIRBYTE_LOGGING_ROOT": str(folder / "airbyte"),
    }
    return {**kept, **QUIET, **here, **variant.variables(database)}


@contextmanager
def store(variant: Variant, folder: Path) -> Iterator[str]:
    """Give the database that ``variant`` loads into: an empty one."""
    if variant.store == "postgres":
        with served([str(variant.bin / "python"), str(HERE / "postgres_server.py")]) as url:
            yield url
    else:
        yield str(folder / ("lake" if variant.store == "delta" else "propel_auth_pipeline.duckdb"))


def play(variant: Variant, url: str, scratch: Path) -> tuple[Cost, list[int]]:
    """Run ``variant`` once; return what it took and how many rows its tables have."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        with store(variant, folder) as database:
            cost = measured(variant.command(url, database), folder, environment(url, folder, variant, database))
            if not variant.tables:
                return cost, []
            count = [str(variant.bin / "python"), str(HERE / "count.py"), database, *variant.tables]
            rows = json.loads(subprocess.run(count, capture_output=True, check=True).stdout)
            return cost, rows
    finally:
        shutil.rmtree(folder)


class Bench:
    """The runs so far."""

    def __init__(self, console: Console, pages: Path, scratch: Path) -> None:
        """Keep frozen pages in ``pages``; run in folders below ``scratch``."""
        self.console, self.pages, self.scratch = console, pages, scratch
        self.costs: dict[tuple[str, str], list[Cost]] = defaultdict(list)
        self.rows: dict[tuple[int, str], dict[str, list[int]]] = defaultdict(dict)
        self.failures: dict[tuple[str, str], str] = {}

    def play(self, scene: Scene, variants: list[Variant], repeat: int) -> None:
        """Play ``scene`` ``repeat`` times, the variants in turn."""
        sandbox = [sys.executable, str(HERE / "frozen_pages.py"), str(self.pages / str(scene.users)), "--now", NOW]
        sandbox += ["--users", str(scene.users)]
        for fault in scene.faults:
            sandbox += ["--fault", fault]
        for turn in range(1, repeat + 1):
            for variant in variants:
                if (scene.name, variant.name) in self.failures:
                    continue
                with served(sandbox) as url:  # a new one: a rate limit begins with an allowance
                    self._once(scene, variant, url, f"{turn}/{repeat}")

    def _once(self, scene: Scene, variant: Variant, url: str, turn: str) -> None:
        what = f"{scene.label:<24} {turn} {variant.name:<13}"
        try:
            cost, rows = play(variant, url, self.scratch)
        except (CommandFailed, subprocess.CalledProcessError) as error:
            self.failures[scene.name, variant.name] = str(error)
            self.console.print(f"{what} failed: {error}", markup=False)
            return
        self.costs[scene.name, variant.name].append(cost)
        if rows:
            self.rows[scene.users, variant.what][variant.name] = rows
        took = f"{cost.wall:7.2f} s wall {cost.cpu:7.2f} s CPU {cost.memory_mb:6.0f} MB"
        self.console.print(f"{what} {took}  rows {rows}", markup=False, highlight=False)

    def compare_rows(self) -> None:
        """Refuse to compare variants that did not do the same.

        Raises:
            WrongRows: two of them loaded different numbers of rows.
        """
        for (users, what), by_variant in self.rows.items():
            if len({tuple(rows) for rows in by_variant.values()}) > 1 or any(
                r[0] != users for r in by_variant.values()
            ):
                raise WrongRows(f"of {users:,} {what}, rows loaded: {by_variant}")


def table_of(bench: Bench, played: list[Scene]) -> Table:
    """Return the table of everything that was run: medians, and wall time over that of ours in the same scene."""
    table = Table(title="Medians, whole processes, imports included", title_style="bold", title_justify="left")
    table.add_column("users")
    for name in ("variant", "loads"):
        table.add_column(name)
    for name in ("runs", "wall s", "CPU s", "peak MB", "users/s", "wall / ours", "CPU / ours"):
        table.add_column(name, justify="right")
    for scene in played:
        for name in scene.variants:
            variant, costs = BY_NAME[name], bench.costs.get((scene.name, name))
            if costs:
                table.add_row(
                    scene.label,
                    variant.label,
                    variant.what,
                    *_cells(bench, scene, variant, costs),
                )
        table.add_section()
    return table


def _cells(bench: Bench, scene: Scene, variant: Variant, costs: list[Cost]) -> list[str]:
    wall, cpu = median(c.wall for c in costs), median(c.cpu for c in costs)
    cells = [str(len(costs)), f"{wall:.2f}", f"{cpu:.2f}", f"{median(c.memory_mb for c in costs):.0f}"]
    if variant.what == NOTHING:
        return [*cells, "", "", ""]
    ours = bench.costs.get((scene.name, "ours" if variant.what == BOTH else "ours-users"))
    if not ours:
        return [*cells, f"{scene.users / wall:,.0f}", "", ""]
    ratios = wall / median(c.wall for c in ours), cpu / median(c.cpu for c in ours)
    return [*cells, f"{scene.users / wall:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)]


def bars_of(bench: Bench, promised: list[Bar]) -> Table:
    """Return the table of the bars; one that needs a run that was left out is not decided."""
    table = Table(title="Bars", title_style="bold", title_justify="left")
    for name, justify in (("bar", "left"), ("limit", "right"), ("measured", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for bar in promised:
        try:
            number = bar.number(dict(bench.costs))
        except KeyError:
            table.add_row(bar.text, bar.limit, "-", "not run")
            continue
        table.add_row(bar.text, bar.limit, f"{number:.2f}", "[green]met[/]" if bar.met(number) else "[red]not met[/]")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quick", is_flag=True, help=f"Small sizes, once each: {QUICK}. To see that everything runs; the bars mean little."
)
@click.option("--sizes", nargs=3, type=int, help="Three numbers of users instead of 10,000, 100,000 and 1,000,000.")
@click.option("--only", multiple=True, type=click.Choice(list(BY_NAME)), help="Only this variant. Repeatable.")
@click.option(
    "--scene",
    "only_scenes",
    multiple=True,
    type=click.Choice([s.name for s in scenes(1, 2, 3)]),
    help="Only this scene. Repeatable.",
)
@click.option("--repeat", type=click.IntRange(1), help="Runs of each variant. Default: 3, with --quick 1.")
@click.option(
    "--pages",
    type=click.Path(path_type=Path),
    default=ROOT / ".bench",
    help="Where frozen pages are kept: 1.3 KB a user.",
)
def main(
    quick: bool,
    sizes: tuple[int, int, int] | None,
    only: tuple[str, ...],
    only_scenes: tuple[str, ...],
    repeat: int | None,
    pages: Path,
) -> None:
    """Measure this project against what else there is, on this machine, and print one table."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    known = scenes(*(sizes or (QUICK if quick else FULL)))
    played = [scene for scene in known if not only_scenes or scene.name in only_scenes]
    missing = sorted({v.peer for v in map(BY_NAME.get, only or BY_NAME) if v and not v.installed})
    with tempfile.TemporaryDirectory(prefix="propel-assets-bench-") as scratch:
        bench = Bench(console, pages.resolve(), Path(scratch))
        for scene in played:
            chosen = [BY_NAME[name] for name in scene.variants if not only or name in only]
            bench.play(scene, [v for v in chosen if v.installed], repeat or (1 if quick else 3))
    console.print(table_of(bench, played))
    console.print(bars_of(bench, bars({scene.name: scene.users for scene in known})))
    for name in missing:
        console.print(f"Not run: {name}, its environment .venv-bench-{name} is not there. `make bench-peers` makes it.")
    try:
        bench.compare_rows()
    except WrongRows as error:
        raise click.ClickException(str(error)) from None
    if bench.failures:
        raise click.ClickException(f"{len(bench.failures)} variants failed; see above.")


if __name__ == "__main__":
    main()
