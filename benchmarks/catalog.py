"""What is compared: the variants, the scenes they are played in, and the bars."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from measuring import Cost

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VARIANTS_FOLDER = HERE / "variants"
BOTH, USERS, NOTHING = "users + memberships", "users", "nothing"
MB_AT_MOST = 600
RATE, PAGE_SIZE = 10, 100


@dataclass(frozen=True)
class Variant:
    """One way to load: the words of its command, and the tables where its rows end up.

    ``peer``: the environment it needs, `.venv-bench-<peer>`; empty: this one. In words, {python}, {bin}, {url} and
    {database} stand for what they say; a word that ends in .py is a file of `variants/`.
    """

    name: str
    label: str
    what: str
    words: tuple[str, ...]
    tables: tuple[str, ...]
    peer: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return ROOT / f".venv-bench-{self.peer}/bin" if self.peer else Path(sys.executable).parent

    @property
    def installed(self) -> bool:
        """Whether its environment has been made."""
        return not self.peer or (self.bin.parent / "has-peer").exists()

    def command(self, url: str, database: Path) -> list[str]:
        """Return the words to run."""
        known = {"python": str(self.bin / "python"), "bin": str(self.bin), "url": url, "database": str(database)}
        words = [word.format(**known) for word in self.words]
        return [str(VARIANTS_FOLDER / word) if word.endswith(".py") else word for word in words]


OURS = ("propel_auth_data.user_query", "propel_auth_data.org_membership")
RECIPE = ("propel_auth_data.user_query", "propel_auth_data.user_query__org_id_to_org_info")
LOAD = ("{bin}/propel-assets", "load", "user_query", "org_membership")
PEERS = {
    "airbyte": "Airbyte CDK to DuckDB",
    "singer": "Singer tap to target-duckdb",
    "sling": "pages piped into Sling",
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
PEERS = ("airbyte", "singer", "sling")


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


ALL = tuple(variant.name for variant in VARIANTS if variant.name not in ("ours-1", "help"))
LATENCY, LIMIT = ("latency_ms=50",), (f"rate_limit={RATE}", "retry_after=seconds")


def scenes(small: int, middle: int, large: int) -> list[Scene]:
    """Return the scenes for three sizes; by default 10,000, 100,000 and 1,000,000 users."""
    return [
        Scene("small", small, ("help", *ALL)),
        Scene("middle", middle, ALL),
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
    peers = [
        Bar(
            f"{n['middle']} users alone: times faster than {BY_NAME[name].label}",
            _times("middle", name, "ours-users"),
            at_least=6,
        )
        for name in PEERS
    ]
    return [
        Bar(f"{n['middle']} users + memberships: times the floor", _times("middle", "ours", "floor"), at_most=2),
        Bar(f"{n['large']} users + memberships: times the floor", _times("large", "ours", "floor"), at_most=1.1),
        Bar(
            f"{n['middle']}: times faster than the recipe at its best",
            _times("middle", "recipe-best", "ours"),
            at_least=5,
        ),
        Bar(
            f"{n['middle']}: times faster than dlt with dicts in parallel",
            _times("middle", "parallel", "ours"),
            at_least=4.5,
        ),
        Bar(
            f"{n['middle']} users alone: times faster than the recipe",
            _times("middle", "recipe-100", "ours-users"),
            at_least=12,
        ),
        *peers,
        Bar(f"{n['large']}: peak memory, MB", memory, at_most=MB_AT_MOST),
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
        Bar("propel-assets --help: seconds", lambda costs: wall(costs, "small", "help"), at_most=0.3),
    ]
