"""What commands print: tables to stdout, messages and progress to stderr."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

# As in `warehouse.locks` and `source.stream`, whose imports would slow down every command.
Log = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]
PIPE_WIDTH = 100_000
VERDICTS = {
    "proved": 'no row is missing, under the assumptions on the page "How a list is scanned" of the documentation.',
    "counted": "completeness is not proved; propel_scans.reason has the reason.",
    "skipped": "not read, the previous data is kept.",
}
"""What each verdict means."""


def log(text: str) -> None:
    """Print a message to stderr."""
    click.echo(text, err=True)


def log_verdicts(verdicts: Collection[str]) -> None:
    """Print what ``verdicts`` mean to stderr, unless all are `proved`."""
    if {*verdicts} & {"counted", "skipped"}:
        for verdict, meaning in VERDICTS.items():
            if verdict in verdicts:
                log(f"{verdict}: {meaning}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns to stdout. A terminal gets long cells in several lines, a pipe whole lines."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def progress_bar() -> Iterator[tuple[Progress, Log]]:
    """Return functions that show the rows read per table, and that log a message beside it.

    On a terminal there is a bar per table; elsewhere only messages are printed.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None, log
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(table: str, rows: int, total: int | None) -> None:
            if table not in tasks:
                tasks[table] = bar.add_task(table, total=total)
            bar.update(tasks[table], completed=rows, total=total)

        yield show, lambda text: console.print(text, markup=False, soft_wrap=True)


def own_command(words: str, environment: str) -> str:
    """Return a command of ours for ``environment``, as people type it."""
    return f"propel-assets --environment {environment} {words}" if environment else f"propel-assets {words}"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 row", "2,500 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
