"""What goes wrong in one schedule, drawn from its seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

USERS = "/api/backend/v1/user/query"
WORLDS = ((40, 4), (90, 8), (160, 12), (300, 20))
"""Users and orgs of the sandboxes; the seed of each is its place here."""

HOSTILE_FIELD = "hostile"
HOSTILE_TEXTS = ("\0", "a\0b", "\ud83e", "\ufffe", r"\u0000", "'\"\\;\t\r\n", "")
HOSTILE_SCALARS = (1, 1.5, 2**53 + 1, 2**63, True, "text", -0.25, None, *HOSTILE_TEXTS)
"""Values that change the type of a field, that a type cannot hold, or that a destination cannot store."""

WRONG_BODIES = ("[]", "{}", "null", "7", '"no"', '{"error": "no"}', '{"users": null}', '{"users": [{}]}')
NOBODY = '{"users": [], "total_users": 0, "current_page": 0, "page_size": 10, "has_more_results": false}'


@dataclass(frozen=True)
class Strike:
    """The process is killed, or its connections are cut, ``ticks`` signs of progress after ``moment``.

    Signs of progress are requests while reading, else new files in the working folder.
    """

    what: str
    moment: str
    ticks: int


@dataclass(frozen=True)
class Run:
    """One load: its faults as `propel-assets sandbox --fault` reads them, and what else happens to it.

    ``locked``: the database is held by another process, `to the end` or `for a while`.
    """

    tables: tuple[str, ...]
    faults: tuple[str, ...] = ()
    strike: Strike | None = None
    locked: str = ""


@dataclass(frozen=True)
class Apply:
    """A few changes, whose webhooks go wrong as ``faults`` say, and one load of the events that were received.

    ``kills_receiver``: it is killed amid the changes, and started again.
    """

    changes: int
    faults: tuple[str, ...] = ()
    kills_receiver: bool = False
    strike: Strike | None = None


@dataclass(frozen=True)
class Schedule:
    """One seed's: a world, a warehouse (``empty`` or loaded before), what changes, and then one load after another."""

    seed: int
    destination: str
    world: int
    empty: bool
    page_size: int
    concurrency: int
    leave: int
    come: int
    runs: tuple[Run, ...]
    hostile: int = 0
    """How many users get values that are hard to store, others before each load."""
    applies: tuple[Apply, ...] = ()
    """With webhooks: one before each load, one after the last."""


def draw(seed: int) -> Schedule:
    """Return the schedule of ``seed``, always the same."""
    rng = Random(f"schedule {seed}")
    destination = "postgres" if rng.random() < 0.25 else "duckdb"
    empty = rng.random() < 0.1
    schedule = Schedule(
        seed=seed,
        destination=destination,
        world=rng.randrange(len(WORLDS)),
        empty=empty,
        page_size=rng.choice([3, 5, 10, 20]),
        concurrency=rng.choice([1, 2, 4, 8]),
        leave=rng.randrange(6),
        come=rng.randrange(6),
        runs=tuple(_run(rng, destination, empty) for _ in range(rng.choice([1, 1, 1, 2]))),
        hostile=rng.choice([0, 3, 12]),
    )
    has_webhooks = rng.random() < 0.4
    return replace(schedule, applies=tuple(_apply(rng) for _ in (*schedule.runs, None)) if has_webhooks else ())


def _apply(rng: Random) -> Apply:
    faults = rng.sample(list(WEBHOOK_FAULTS), rng.choice([0, 1, 2]))
    strike = Strike("kill", rng.choice(["reading", "extracted", "normalizing", "loading"]), rng.randrange(12))
    return Apply(
        rng.choice([5, 30, 80]),
        tuple(WEBHOOK_FAULTS[name](rng) for name in faults),
        kills_receiver=rng.random() < 0.4,
        strike=strike if rng.random() < 0.4 else None,
    )


def _run(rng: Random, destination: str, empty: bool) -> Run:
    more = rng.sample(["org_query", "pending_org_invites"], rng.choice([0, 0, 1, 2]))
    kinds = rng.sample([name for name in FAULTS if not (empty and name == "nobody")], rng.choice([0, 1, 1, 2, 3]))
    kinds = [kind for kind in kinds if not any(kind in HIDDEN_FROM_TOTALS.get(other, ()) for other in kinds)]
    faults = tuple(option for kind in kinds for option in FAULTS[kind](rng))
    strike, locked = None, ""
    chance = rng.random()
    if chance < 0.35 or not faults:
        what = "cut" if destination == "postgres" and rng.random() < 0.4 else "kill"
        moment = rng.choice(["loading", "normalizing"] if what == "cut" else ["reading", "extracted", "normalizing"])
        moment = rng.choice([moment, "loading"])
        strike = Strike(what, moment, rng.randrange(12))
    elif chance < 0.5 and not (empty and destination == "postgres"):
        locked = "for a while" if destination == "postgres" else rng.choice(["for a while", "to the end"])
    return Run(("user_query", *more), faults, strike, locked)


def _limits(rng: Random, *, paths: Sequence[str] = ("", USERS)) -> str:
    """Return when a fault strikes: from the first request on or later, for a few requests or a share of them."""
    path = rng.choice(paths)
    limits = f",path={path}" if path else ""
    limits += f",after={rng.choice([0, 0, 1, 3, 8, 20])}"
    if rng.random() < 0.8:
        return f"{limits},requests={rng.choice([1, 2, 5, 12, 30])}"
    return f"{limits},share={rng.choice([0.05, 0.2, 0.5])}"


# What may come between the same two requests as the fault before the colon: docs/scan.md, assumption 3.
HIDDEN_FROM_TOTALS = {
    "insertions": ("deletes",),
    "deletes, then insertions": ("deletes", "sign-ups", "insertions"),
}
FAULTS = {
    "429 storm": lambda rng: (
        f"rate_limit={rng.choice([5, 20, 60])}{rng.choice(['', ',after=3,requests=20'])}",
        f"retry_after={rng.choice(['seconds', 'date', 'none'])}",
    ),
    "5xx": lambda rng: (f"server_error={rng.choice([500, 502, 503, 504, 520])}{_limits(rng)}",),
    "other refusal": lambda rng: (f"server_error={rng.choice([400, 403, 404, 408, 413, 418])}{_limits(rng)}",),
    "reset": lambda rng: (f"reset{_limits(rng)}",),
    "truncated": lambda rng: (f"truncated{_limits(rng)}",),
    "html": lambda rng: (f"html={rng.choice([200, 502])}{_limits(rng)}",),
    "wrong body": lambda rng: (f"wrong_json={rng.choice(WRONG_BODIES)}{_limits(rng)}",),
    "nobody": lambda rng: (f"wrong_json={NOBODY}{_limits(rng, paths=[USERS])}",),
    "redirect": lambda rng: (f"redirect{_limits(rng)}",),
    "slow answers": lambda rng: (f"latency_ms={rng.choice([5, 30, 200])},share=0.3",),
    "slow bodies": lambda rng: (f"slow_body_ms={rng.choice([20, 200])},share=0.3",),
    "key revoked": lambda rng: (f"key_revoked{_limits(rng)}",),
    "orgs off": lambda rng: (f"orgs_off{_limits(rng, paths=['', USERS])}",),
    "include_orgs off": lambda rng: (f"include_orgs_off{_limits(rng, paths=['', USERS])}",),
    "deletes": lambda rng: (f"delete_every={rng.choice([2, 3, 7])},requests={rng.choice([3, 10])}",),
    "sign-ups": lambda rng: (f"signup_every={rng.choice([2, 3, 7])},requests={rng.choice([3, 30])}",),
    "insertions": lambda rng: (
        f"insert_every={rng.choice([2, 3, 7])},after={rng.choice([0, 4, 8])},requests={rng.choice([1, 1, 3])}",
    ),
    "deletes, then insertions": lambda rng: (
        f"delete_every=2,requests={rng.choice([1, 3])}",
        f"insert_every={rng.choice([2, 7])},after=16,requests={rng.choice([1, 3])}",
    ),
    "page repeated": lambda rng: (f"repeated_page={rng.randrange(4)}{_limits(rng, paths=[USERS])}",),
    "ties shuffled": lambda rng: (f"shuffled_ties{_limits(rng)}",),
    "pages capped": lambda rng: (f"page_size_cap={rng.choice([3, 8])}{_limits(rng)}",),
    "new fields": lambda rng: (f"unknown_field{_limits(rng)}",),
}
WEBHOOK_FAULTS = {
    "lost": lambda rng: f"webhook_lost,share={rng.choice([0.1, 0.5])}",
    "repeated": lambda rng: f"webhook_duplicated={rng.choice([2, 5])},share=0.3",
    "late": lambda rng: f"webhook_delay_ms={rng.choice([200, 2000])},share=0.3",
    "out of order": lambda rng: f"webhook_disorder={rng.choice([3, 20])}",
    "at once": lambda rng: f"webhook_burst={rng.choice([5, 50])}",
    "forged": lambda _: "webhook_forged,share=0.2",
    "replayed": lambda _: "webhook_replayed,share=0.2",
}
