"""What is compared: the variants, the scenes they are played in, and the bars."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from measuring import Cost

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VARIANTS_FOLDER = HERE / "variants"
BOTH, USERS, NOTHING = "users + memberships", "users", "nothing"
RATE, PAGE_SIZE = 10, 100
TENANT = 2_500
"""A tenant as most are: 1,000 to 20,000 users."""


@dataclass(frozen=True)
class Variant:
    """One way to load: the words of its command, and the tables where its rows end up.

    ``peer``: the environment it needs, `.venv-bench-<peer>`; empty: this one. In words and in the environment
    variables, {python}, {bin}, {url} and {database} stand for what they say; a word that ends in .py is a file of
    `variants/`. ``store``: what {database} is, a file, a URL or a folder.
    """

    name: str
    label: str
    what: str
    words: tuple[str, ...]
    tables: tuple[str, ...]
    peer: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    store: Literal["duckdb", "postgres", "delta"] = "duckdb"

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return ROOT / f".venv-bench-{self.peer}/bin" if self.peer else Path(sys.executable).parent

    @property
    def installed(self) -> bool:
        """Whether its environment has been made."""
        return not self.peer or (self.bin.parent / "has-peer").exists()

    def command(self, url: str, database: str) -> list[str]:
        """Return the words to run."""
        known = {"python": str(self.bin / "python"), "bin": str(self.bin), "url": url, "database": database}
        words = [word.format(**known) for word in self.words]
        return [str(VARIANTS_FOLDER / word) if word.endswith(".py") else word for word in words]

    def variables(self, database: str) -> dict[str, str]:
        """Return its environment variables."""
        return {name: value.format(database=database) for name, value in self.environment.items()}


OURS = ("propel_auth_data.user_query", "propel_auth_data.org_membership")
RECIPE = ("propel_auth_data.user_query", "propel_auth_data.user_query__org_id_to_org_info")
LOAD = ("{bin}/propel-assets", "load", "user_query", "org_membership")
PEERS = {
    "airbyte": "Airbyte CDK to DuckDB",
    "singer": "Singer tap to target-duckdb",
    "sling": "pages piped into Sling",
}
OTHER_WAREHOUSES: dict[Literal["postgres", "delta"], dict[str, str]] = {
    "postgres": {"PROPELAUTH_DESTINATION": "postgres", "DESTINATION__POSTGRES__CREDENTIALS": "{database}"},
    "delta": {"PROPELAUTH_DESTINATION": "filesystem", "DESTINATION__FILESYSTEM__BUCKET_URL": "file://{database}"},
}

VARIANTS = (
    Variant("ours", "propel-assets load", BOTH, LOAD, OURS),
    Variant(
        "ours-1", "propel-assets load, 1 connection", BOTH, LOAD, OURS, environment={"PROPELAUTH_MAX_CONCURRENCY": "1"}
    ),
    Variant("ours-dagster", "the same, by a Dagster run", BOTH, ("{python}", "ours_dagster.py"), OURS),
    Variant(
        "floor",
        "floor: download, read_json",
        BOTH,
        ("{python}", "floor.py", "{url}", "{database}"),
        ("user_query", "org_membership"),
    ),
    Variant(
        "recipe-best",
        "dlt's recipe at its best",
        BOTH,
        ("{python}", "recipe.py", "{url}", "100", "best"),
        RECIPE,
    ),
    Variant("parallel", "dlt, dicts, pages in parallel", BOTH, ("{python}", "parallel.py", "{url}"), RECIPE),
    *(
        variant
        for store, variables in OTHER_WAREHOUSES.items()
        for variant in (
            Variant(f"ours-{store}", f"propel-assets load, {store}", BOTH, LOAD, OURS, "extras", variables, store),
            Variant(
                f"floor-{store}",
                f"floor: download, write to {store}",
                BOTH,
                ("{python}", "floor_warehouse.py", "{url}", "{database}"),
                OURS,
                "extras",
                store=store,
            ),
        )
    ),
    Variant("demo", "propel-assets demo", NOTHING, ("{bin}/propel-assets", "demo"), (), "extras"),
    Variant("help", "propel-assets --help", NOTHING, ("{bin}/propel-assets", "--help"), ()),
    Variant("ours-users", "propel_auth_source, one table", USERS, ("{python}", "ours_users.py"), OURS[:1]),
    Variant(
        "floor-users",
        "floor: download, read_json",
        USERS,
        ("{python}", "floor.py", "{url}", "{database}", "users"),
        ("user_query",),
    ),
    Variant("recipe-10", "dlt's recipe, pages of 10", USERS, ("{python}", "recipe.py", "{url}", "10"), RECIPE[:1]),
    Variant("recipe-100", "dlt's recipe, pages of 100", USERS, ("{python}", "recipe.py", "{url}", "100"), RECIPE[:1]),
    *(
        Variant(name, label, USERS, ("{python}", f"{name}_duckdb.py", "{url}", "{database}"), OURS[:1], peer=name)
        for name, label in PEERS.items()
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


@dataclass(frozen=True)
class Scene:
    """A PropelAuth of so many users, behind these faults, and who loads from it."""

    name: str
    users: int
    variants: tuple[str, ...]
    faults: tuple[str, ...] = ()
    behind: str = ""

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{self.users:,}{self.behind and ', '}{self.behind}"


WAREHOUSES = tuple(f"{what}-{store}" for store in OTHER_WAREHOUSES for what in ("ours", "floor"))
ALL = tuple(v.name for v in VARIANTS if v.name not in ("ours-1", "help", "demo", *WAREHOUSES))
LATENCY, LIMIT = ("latency_ms=50",), (f"rate_limit={RATE}", "retry_after=seconds")


def scenes(small: int, middle: int, large: int) -> list[Scene]:
    """Return the scenes for three sizes; by default 10,000, 100,000 and 1,000,000 users."""
    return [
        Scene("tenant", TENANT, ("ours", "ours-dagster", "demo")),
        Scene("small", small, ("help", *ALL)),
        Scene("middle", middle, (*ALL, *WAREHOUSES)),
        Scene("large", large, ("ours", "floor")),
        Scene("latency", middle, ("ours", "ours-1"), LATENCY, "50 ms"),
        Scene("limit", middle, ("ours",), LIMIT, f"{RATE} requests/s"),
    ]


Costs = Mapping[tuple[str, str], Sequence[Cost]]
"""The runs of a variant in a scene, by the names of both."""


@dataclass(frozen=True)
class Bar:
    """A promise: a number that must be at least, or at most, so much."""

    text: str
    number: Callable[[Costs], float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> str:
        """The limit, as words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    def met(self, number: float) -> bool:
        """Whether ``number`` keeps the promise."""
        return number >= self.at_least if self.at_least is not None else number <= (self.at_most or 0)


def wall(costs: Costs, scene: str, variant: str) -> float:
    """Return the median wall time of a variant in a scene."""
    return median(cost.wall for cost in costs[scene, variant])


def _times(scene: str, slow: str, fast: str) -> Callable[[Costs], float]:
    return lambda costs: wall(costs, scene, slow) / wall(costs, scene, fast)


def _seconds(scene: str, variant: str) -> Callable[[Costs], float]:
    return lambda costs: wall(costs, scene, variant)


def bars(users: Mapping[str, int]) -> list[Bar]:
    """Return the promises; ``users``: how many there are in each scene."""

    def slope(costs: Costs) -> float:
        """Return what a user costs between the middle and the large size, over what one costs below."""
        below = (wall(costs, "middle", "ours") - wall(costs, "small", "ours")) / (users["middle"] - users["small"])
        above = (wall(costs, "large", "ours") - wall(costs, "middle", "ours")) / (users["large"] - users["middle"])
        return above / below

    def over_the_rate(costs: Costs) -> float:
        return wall(costs, "limit", "ours") / (users["limit"] / PAGE_SIZE / RATE)

    def memory(costs: Costs) -> float:
        return median(cost.memory_mb for cost in costs["large", "ours"])

    n = {name: f"{count:,}" for name, count in users.items()}
    both, alone = f"{n['middle']} users + memberships", f"{n['middle']} users alone"
    large = f"{n['large']} users + memberships"
    times_faster = [
        (f"{both}: times faster than the recipe at its best", "recipe-best", "ours", 5),
        (f"{both}: times faster than dlt with dicts in parallel", "parallel", "ours", 5),
        (f"{alone}: times faster than the recipe, pages of 100", "recipe-100", "ours-users", 15),
        (f"{alone}: times faster than {PEERS['airbyte']}", "airbyte", "ours-users", 8),
        (f"{alone}: times faster than {PEERS['singer']}", "singer", "ours-users", 5.5),
        (f"{alone}: times faster than {PEERS['sling']}", "sling", "ours-users", 4),
    ]
    return [
        Bar(f"{both}: times the floor", _times("middle", "ours", "floor"), at_most=2),
        Bar(f"{both}: times the floor, moonshot", _times("middle", "ours", "floor"), at_most=1.5),
        Bar(f"{large}: times the floor", _times("large", "ours", "floor"), at_most=1.1),
        Bar(f"{large}: times the floor, moonshot", _times("large", "ours", "floor"), at_most=1),
        Bar(f"{large}: peak memory, MB", memory, at_most=600),
        Bar(f"{large}: peak memory, MB, moonshot", memory, at_most=450),
        *(Bar(text, _times("middle", slow, fast), at_least=limit) for text, slow, fast, limit in times_faster),
        *(
            Bar(f"{both}, {store}: times the floor", _times("middle", f"ours-{store}", f"floor-{store}"), at_most=2)
            for store in OTHER_WAREHOUSES
        ),
        Bar(f"{n['tenant']} users by the command line: seconds", _seconds("tenant", "ours"), at_most=2),
        Bar(f"{n['tenant']} users by a Dagster run: seconds", _seconds("tenant", "ours-dagster"), at_most=4),
        Bar("demo, every asset and mart: seconds", _seconds("tenant", "demo"), at_most=35),
        Bar(
            f"{n['latency']} at 50 ms: times faster than one connection",
            _times("latency", "ours-1", "ours"),
            at_least=6,
        ),
        Bar(f"{n['limit']} at 10 requests a second: times what the rate allows", over_the_rate, at_most=1.1),
        Bar("seconds for one more user, large over middle", slope, at_most=1.25),
        Bar(
            f"{n['middle']} through Dagster: seconds more",
            lambda costs: wall(costs, "middle", "ours-dagster") - wall(costs, "middle", "ours"),
            at_most=6,
        ),
        Bar("propel-assets --help: seconds", _seconds("small", "help"), at_most=0.3),
    ]
