"""Lets a schedule happen to the real command, and judges what is left after each of its loads."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from filelock import FileLock

from propel_assets.catalog import BY_NAME
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.webhooks import Delivery
from propel_assets.settings import Tenant
from propel_assets_tests.processes import free_port, listens, wait_until
from propel_assets_tests.soak.schedule import (
    HOSTILE_FIELD,
    HOSTILE_SCALARS,
    HOSTILE_TEXTS,
    WORLDS,
    Apply,
    Run,
    Schedule,
    Strike,
)
from propel_assets_tests.soak.warehouses import TABLES, DuckDb, Holder, Postgres, Tables, Warehouse
from propel_assets_tests.truth import Rows, shown, truth

LOADER = (sys.executable, "-m", "propel_assets.cli")
FIRST_TABLES = ("user_query", "org_query", "pending_org_invites")
SECONDS = 150
ALLOW_LOSS = "PROPELAUTH_ALLOW_LOSS"
RETRY_SECONDS = (0.2, 0.5, 1, 2, 4, 8, 16)
MOMENTS = {
    "extracted": r"/normalize/\w+/[\d.]+/new_jobs/.+\.parquet$",
    "normalizing": r"/load/new/",
    "loading": r"/started_jobs/",
}
W = TypeVar("W", DuckDb, Postgres)
# What dlt is about to run, left in the temporary folder by a kill: it names tables, no person.
STATEMENTS = re.compile(r"\w+\.\w+\.\d+\.(sql|reference)")
OURS = re.compile(r"^(PROPEL|DAGSTER|DESTINATION__|SOURCES__)")


@dataclass
class Outcome:
    """What came of one schedule. ``ended``: how many loads ended how; ``users``: how many had to be there."""

    seed: int
    problems: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    users: int = 0
    lost: int = 0
    altered: int = 0


@dataclass
class _Ended:
    """One load that is over. ``status``: the exit status, or `killed` or `cut`."""

    status: str
    said: str


def play(schedule: Schedule, home: Path, postgres: str, loader: Sequence[str] = LOADER) -> Outcome:
    """Let ``schedule`` happen in a folder of its own in ``home``; what it starts from is kept there for others.

    Args:
        schedule: what goes wrong.
        home: an existing folder.
        postgres: the folder of a running PostgreSQL's sockets.
        loader: the words of the command under test.
    """
    outcome = Outcome(schedule.seed)
    folder = home / f"{schedule.seed}"
    users, orgs = WORLDS[schedule.world]
    warehouse = _warehouse(schedule, folder, home, postgres)
    try:
        with contextlib.ExitStack() as stack:
            receiver = stack.enter_context(Receiver(folder)) if schedule.applies else None
            webhooks = {"webhook_url": receiver.url, "webhook_retry_seconds": RETRY_SECONDS} if receiver else {}
            sandbox = stack.enter_context(Sandbox(users=users, orgs=orgs, seed=schedule.world, **webhooks))
            player = _Player(schedule, folder, sandbox, warehouse, loader, outcome)
            for user_id in list(sandbox.store.users)[: schedule.leave]:
                sandbox.store.delete_user(user_id)
            for _ in range(schedule.come):
                sandbox.store.add_user()
            for run, apply in zip_longest(schedule.runs, schedule.applies):
                if apply and receiver:
                    player.apply(apply, receiver)
                if run:
                    player.load(run)
            player.load(Run(FIRST_TABLES), clean=True)
            outcome.faults.update({name: n for name, n in sandbox.faults.hits.items() if n})
    finally:
        if isinstance(warehouse, Postgres):
            warehouse.drop()
    if not outcome.problems:
        shutil.rmtree(folder)
    return outcome


class Receiver:
    """The webhook receiver, as a process that can be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}/webhooks/propelauth"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Receiver":
        env = {
            **{name: value for name, value in os.environ.items() if not OURS.match(name)},
            **_webhook_store(self._folder),
            "PROPELAUTH_WEBHOOK_SECRET": Sandbox.webhook_secret,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [*LOADER, "webhooks", "--port", str(self._port)]
        with (self._folder / "receiver.txt").open("a") as file:
            self._process = subprocess.Popen(command, cwd=self._folder, env=env, stdout=file, stderr=file)
        wait_until(lambda: listens(self._port), self._process, "the receiver starts")
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it at whatever it does, and start it again."""
        self.__exit__()
        self.__enter__()


def _webhook_store(folder: Path) -> dict[str, str]:
    return {"PROPELAUTH_WEBHOOK_STORE": f"sqlite:///{folder}/webhooks.db"}


def _warehouse(schedule: Schedule, folder: Path, home: Path, postgres: str) -> Warehouse:
    """Make the folder and the warehouse the schedule starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    if schedule.destination == "duckdb":
        warehouse: Warehouse = DuckDb(folder / "warehouse.duckdb")
        if not schedule.empty:
            warehouse.start_from(_first_load(schedule, home, DuckDb(home / f"world_{schedule.world}.duckdb")).file)
    else:
        warehouse = Postgres(postgres, f"seed_{schedule.seed}")
        warehouse.drop()
        base = "template0"
        if not schedule.empty:
            base = _first_load(schedule, home, Postgres(postgres, f"world_{schedule.world}")).name
        warehouse.create(base)
    return warehouse


def _first_load(schedule: Schedule, home: Path, warehouse: W) -> W:
    """Load the schedule's world undisturbed, once for all schedules."""
    done = home / f"world_{schedule.world}.{schedule.destination}.done"
    with FileLock(f"{done}.lock"):
        if not done.exists():
            folder = home / f"world_{schedule.world}_{schedule.destination}"
            (folder / "tmp").mkdir(parents=True)
            if isinstance(warehouse, Postgres):
                warehouse.create()
            users, orgs = WORLDS[schedule.world]
            with Sandbox(users=users, orgs=orgs, seed=schedule.world) as sandbox:
                command = [*LOADER, "load", *FIRST_TABLES]
                env = _environment(folder, sandbox, warehouse)
                subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=SECONDS)
            done.touch()
    return warehouse


def _environment(folder: Path, sandbox: Sandbox, warehouse: Warehouse) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not OURS.match(name)},
        **warehouse.environment,
        **_webhook_store(folder),
        "PROPELAUTH_AUTH_URL": sandbox.url,
        "PROPELAUTH_API_KEY": sandbox.api_key,
        "PROPELAUTH_OAUTH_TOKEN": sandbox.user_token,
        "PROPELAUTH_RETRY_SECONDS": "2",
        "PROPELAUTH_LOCK_SECONDS": "60",
        "TMPDIR": str(folder / "tmp"),
        "DLT_DATA_DIR": str(folder / "dlt"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


class _Player:
    def __init__(
        self,
        schedule: Schedule,
        folder: Path,
        sandbox: Sandbox,
        warehouse: Warehouse,
        loader: Sequence[str],
        outcome: Outcome,
    ) -> None:
        self._folder, self._sandbox, self._warehouse, self._loader = folder, sandbox, warehouse, loader
        self._outcome = outcome
        self._hostile = schedule.hostile
        self._rng = Random(f"hostile values {schedule.seed}")
        self._gone: set[str] = set()
        self._settings = {
            "PROPELAUTH_PAGE_SIZE": str(schedule.page_size),
            "PROPELAUTH_MAX_CONCURRENCY": str(schedule.concurrency),
        }
        # Of the last full load of each table: its rows; and the keys of rows that it or events since then have stored.
        self._full_rows: dict[str, int] = {}
        self._stored: dict[str, set[tuple]] = {}
        self._note_stored(warehouse.read(), TABLES)

    def load(self, run: Run, *, clean: bool = False) -> None:
        """Run one load, and judge it. A ``clean`` one must succeed and equal the truth."""
        before, store = self._warehouse.read(), self._sandbox.store
        self._send_hostile_values()
        start = {name: truth(store, name) for name in TABLES}
        everyone = set(store.all_users)
        for option in run.faults:
            self._sandbox.faults.parse(option)
        ended = self._run_with_loss(run) if clean else self._run(run)
        self._sandbox.faults.clear()
        end = {name: truth(store, name) for name in TABLES}
        came = set(store.all_users) - everyone
        self._outcome.ended[
            "clean" if clean else {"0": "succeeded", "1": "failed"}.get(ended.status, ended.status)
        ] += 1
        where = f"seed {self._outcome.seed}, {'clean run' if clean else run}, {ended.status}"
        after = self._warehouse.read()
        if ended.status == "0":
            self._note_stored(after, _reported(ended) & {*TABLES})
        found = [*self._judge(run, ended, before, after, start, end, came), *self._leaks(ended), *self._returned(after)]
        if clean:
            found += self._not_clean(ended)
        said = "".join(line for line in ended.said.splitlines(keepends=True) if "|[WARNING]|" not in line)
        self._outcome.problems += [f"{problem}\n  {where}\n  it said: {said[-1500:]}" for problem in found]

    def apply(self, step: Apply, receiver: Receiver) -> None:
        """Let users and orgs change, and load the events. Deletions that were received are in no table after that."""
        webhooks = self._sandbox.webhooks
        for option in step.faults:
            self._sandbox.faults.parse(option)
        for number in range(step.changes):
            self._sandbox.live.step()
            if step.kills_receiver and number == step.changes // 2:
                receiver.restart()
                self._outcome.faults["kill -9 of the receiver"] += 1
        sent = webhooks.wait_until_sent(SECONDS)
        self._sandbox.faults.clear()
        received = {d.event.payload["user_id"] for d in webhooks.deliveries if _is_received(d, "user.deleted")}
        ended = self._run_with_loss(Run(("auth_event",), strike=step.strike))
        self._outcome.ended[f"events {'loaded' if ended.status == '0' else ended.status}"] += 1
        found = [] if sent else ["webhooks were not sent to their end"]
        if ended.status not in {"0", "killed"} or "Traceback" in ended.said:
            found.append(f"events were not loaded: {ended.status}")
        if ended.status == "0":
            self._gone |= received
        after = self._warehouse.read()
        for name, keys in self._stored.items():
            keys |= _keys(name, after[name])
        found += [*self._returned(after), *self._leaks(ended)]
        where = f"seed {self._outcome.seed}, {step}"
        self._outcome.problems += [f"{problem}\n  {where}\n  it said: {ended.said[-1500:]}" for problem in found]

    def _returned(self, tables: Tables) -> list[str]:
        """Return the tables that have a user whose deletion was received and loaded."""
        found = {name: {row["user_id"] for row in tables[name] or []} for name in ("user_query", "org_membership")}
        return [f"{name}: {len(ids & self._gone)} deleted users" for name, ids in found.items() if ids & self._gone]

    def _send_hostile_values(self) -> None:
        """Give some users values that are hard to store, in a declared column, in JSON and in an unexpected field."""
        store = self._sandbox.store
        for user_id in self._rng.sample(sorted(store.users), min(self._hostile, len(store.users))):
            text = self._rng.choice(HOSTILE_TEXTS)
            values = {HOSTILE_FIELD: self._rng.choice(HOSTILE_SCALARS), "first_name": text}
            store.update_user(user_id, **values, properties={"n": 2**70, text: [text, 0.1]})

    def _count_altered(self, rows: list[dict] | None) -> list[str]:
        """Return how many values of the unexpected field are not as they were sent."""
        users = self._sandbox.store.users
        found = {row["user_id"]: _as_sent(row, HOSTILE_FIELD) for row in rows or [] if row["user_id"] in users}
        altered = [user for user, value in found.items() if not _is_same(value, users[user].wire.get(HOSTILE_FIELD))]
        self._outcome.altered += len(altered)
        return [f"user_query: {len(altered)} unexpected values were altered"] if altered else []

    def _note_stored(self, tables: Tables, names: Iterable[str]) -> None:
        for name in names:
            self._stored[name] = _keys(name, tables[name])
            self._full_rows[name] = len(self._stored[name])

    def _run_with_loss(self, run: Run) -> _Ended:
        """Run the command. If it refuses a loss that is real, run it again as its message says."""
        ended = self._run(run)
        if ended.status != "1" or f"{ALLOW_LOSS}=true" not in ended.said:
            return ended
        deleted = {name: len(keys - truth(self._sandbox.store, name).keys()) for name, keys in self._stored.items()}
        if all(number <= Tenant.max_loss * self._full_rows[name] for name, number in deleted.items()):
            return ended
        self._outcome.ended["a loss refused"] += 1
        return self._run(replace(run, strike=None), **{ALLOW_LOSS: "true"})

    def _run(self, run: Run, **variables: str) -> _Ended:
        """Run the command; strike it, or hold its database, as ``run`` says."""
        command = [*self._loader, "load", *run.tables]
        env = _environment(self._folder, self._sandbox, self._warehouse) | self._settings | variables
        if run.locked == "to the end":
            env["PROPELAUTH_LOCK_SECONDS"] = "1"
        said = self._folder / "said.txt"
        lock = self._warehouse.held() if run.locked else contextlib.nullcontext()
        with lock as holder, said.open("w") as file:
            watch = self._watch(run, holder, said)
            process = subprocess.Popen(command, cwd=self._folder, env=env, stdout=file, stderr=file)
            deadline = time.monotonic() + SECONDS
            status = ""
            while not status:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = str(process.wait(0.002))
                    break
                if time.monotonic() > deadline:
                    status = f"not done in {SECONDS} s"
                elif watch():
                    status = "killed"
            process.kill()
            process.wait()
        if run.locked:
            self._outcome.faults[f"database locked {run.locked}"] += 1
        if status == "killed":
            self._outcome.faults[f"kill -9 while {run.strike.moment}" if run.strike else ""] += 1
        return _Ended("cut" if self._cut else status, said.read_text())

    def _watch(self, run: Run, holder: Holder | None, said: Path) -> Callable[[], bool]:
        """Return what to call again and again while the load runs: whether to kill it now."""
        self._cut = False
        strike, asked = run.strike, len(self._sandbox.requests)
        seen: set[str] = set()
        ticks = -1  # until the moment has come
        waits = holder is not None and run.locked == "for a while"

        def watch() -> bool:
            nonlocal ticks, waits
            if waits and holder and holder.waited_for(said.read_text()):
                holder.let_go()
                waits = False
            if strike is None or self._cut:
                return False
            if strike.moment == "reading":
                ticks = len(self._sandbox.requests) - asked - 1
            else:
                new = _files(self._folder / "tmp") - seen
                seen.update(new)
                if ticks < 0:
                    new = {path for path in new if re.search(MOMENTS[strike.moment], path)}
                ticks += len(new)
            return ticks >= strike.ticks and self._strikes(strike)

        return watch

    def _strikes(self, strike: Strike) -> bool:
        if strike.what == "kill":
            return True
        self._cut = isinstance(self._warehouse, Postgres) and self._warehouse.cut() > 0
        self._outcome.faults["connections to the database cut"] += self._cut
        return False

    def _judge(
        self,
        run: Run,
        ended: _Ended,
        before: Tables,
        after: Tables,
        start: dict[str, Rows],
        end: dict[str, Rows],
        came: set[str],
    ) -> list[str]:
        """Return what is wrong with the tables, given what the load said of itself."""
        problems = []
        if ended.status not in {"0", "1", "killed", "cut"}:
            problems.append(f"it ended with {ended.status}")
        if "Traceback" in ended.said or (ended.status == "1" and "\nError: " not in f"\n{ended.said}"):
            problems.append("it ended without a sentence")
        reported = _reported(ended)
        if ended.status == "0" and not {"user_query"} <= reported:
            problems.append("it succeeded without loading user_query")
        for name in TABLES:
            same = _comparable(before[name]) == _comparable(after[name])
            wrong = _differences(name, after[name], start[name], end[name], came)
            if name in reported:
                if name == "user_query":
                    self._count_users(after[name], start[name], end[name])
                    wrong += self._count_altered(after[name])
                problems += wrong
            elif not same and ended.status not in {"killed", "cut"}:
                problems.append(f"{name} is not as it was, and nothing said that it was loaded")
            elif not same:
                problems += [f"half-written: {problem}" for problem in wrong]
        return problems

    def _count_users(self, rows: list[dict] | None, start: Rows, end: Rows) -> None:
        throughout = start.keys() & end.keys()
        self._outcome.users += len(throughout)
        self._outcome.lost += len(throughout - {(row["user_id"],) for row in rows or []})

    def _leaks(self, ended: _Ended) -> list[str]:
        """Return where a secret stands in what was said or written, and an e-mail address in what was said."""
        secrets = [self._sandbox.api_key.encode(), self._sandbox.user_token.encode()]
        files = [file for file in self._folder.rglob("*") if file.is_file()]
        problems = [f"{file.name} holds a secret" for file in files if any(s in file.read_bytes() for s in secrets)]
        with self._sandbox.store.lock:
            emails = [user.wire["email"] for user in self._sandbox.store.all_users.values()]
        return problems + [f"it said the e-mail address {email}" for email in emails if email in ended.said]

    def _not_clean(self, ended: _Ended) -> list[str]:
        """Return what an undisturbed load may not do or leave."""
        problems = [] if ended.status == "0" else [f"an undisturbed load ended with {ended.status}"]
        left = [path.name for path in (self._folder / "tmp").iterdir() if not STATEMENTS.fullmatch(path.name)]
        return problems + [f"it left {what}" for what in [*left, *self._warehouse.left_over()]]


def _reported(ended: _Ended) -> set[str]:
    """Return the tables that the command has reported as loaded."""
    return set(re.findall(r"^(\w+): [\d,]+ rows?, ", ended.said, re.MULTILINE))


def _is_received(delivery: Delivery, event_type: str) -> bool:
    is_sent = delivery.kind == "delivery" and delivery.event.event_type == event_type
    return is_sent and delivery.delivered_at is not None


def _files(folder: Path) -> set[str]:
    return {f"{where}/{name}" for where, folders, files in os.walk(folder) for name in (*folders, *files)}


def _keys(name: str, rows: list[dict] | None) -> set[tuple]:
    return {tuple(row[key] for key in BY_NAME[name].key) for row in rows or []}


def _comparable(rows: list[dict] | None) -> list[str]:
    """Return the rows in one order, without what is null.

    A load that came to nothing may have made an empty table, or a column without a value.
    """
    return sorted(repr(sorted((name, value) for name, value in row.items() if value is not None)) for row in rows or [])


def _as_sent(row: dict, column: str) -> Any:
    """Return a value from its column, or from the variant of the column."""
    variant = row.get(f"{column}__v_text")
    return row.get(column) if variant is None else json.loads(variant)


def _is_same(found: Any, sent: Any) -> bool:
    return found == sent and isinstance(found, bool) == isinstance(sent, bool)


def _differences(name: str, rows: list[dict] | None, start: Rows, end: Rows, came: set[str]) -> list[str]:
    """Return how the rows are no reading of what was there between ``start`` and ``end``."""
    table = BY_NAME[name]
    columns = [column.name for column in table.columns]
    found = [{c: shown(table, c, _as_sent(row, c)) for c in columns} for row in rows or []]
    keys = Counter(tuple(row[key] for key in table.key) for row in found)
    problems = [f"{name}: {n} keys stand twice" for n in [sum(count > 1 for count in keys.values())] if n]
    missing = (start.keys() & end.keys()) - keys.keys()
    strangers = [key for key in keys if key not in start and key not in end and key[0] not in came]
    problems += [f"{name}: {len(missing)} of {len(start.keys() & end.keys())} rows are missing"] if missing else []
    problems += [f"{name}: {len(strangers)} rows belong to no user"] if strangers else []
    by_key = {tuple(row[key] for key in table.key): row for row in found}
    wrong = [k for k in start.keys() & end.keys() & by_key.keys() if by_key[k] not in (start[k], end[k])]
    if wrong:
        problems.append(f"{name}: {len(wrong)} rows have other values, as {by_key[wrong[0]]}, not {end[wrong[0]]}")
    return problems
