"""What may be stored of people: the policy (docs/privacy.md), and the list of those who were erased.

Every table passes `Gate.pass_on` once, between PropelAuth's answers and dlt. Where everything is kept and nobody was
erased, that is one comparison per batch of rows.
"""

import hashlib
import hmac
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa

from propel_assets.catalog import BY_NAME, TABLES, Table
from propel_assets.errors import SettingsError
from propel_assets.settings import Settings, variable_of

Action = Literal["keep", "hash", "drop"]
ACTIONS: tuple[Action, ...] = ("keep", "hash", "drop")
OPEN, STRICT = "open", "strict"
STRICT_FILE = Path(__file__).with_name("strict.toml")
ANY = "*"
VARIANT = "__v_text"
HELD_BACK = "held back by the privacy policy"
SHORTEST_KEY = 16
LABEL = "propel-assets"  # its digest tells one key from another
ABOUT = ("user_id", "employee_id", "invitee_email", "looked_up")
MENTIONS = ("inviter_user_id", "inviter_email", "impersonator_user_id")
GONE: Any = object()


@dataclass
class Rule:
    """What becomes of a column, or of a part of a JSON value; ``parts`` may have rules of their own."""

    action: Action = "keep"
    parts: dict[str, "Rule"] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """Whether nothing is changed."""
        return self.action == "keep" and all(part.keeps for part in self.parts.values())

    def actions(self) -> Iterator[Action]:
        """Yield the action, and those of the parts."""
        yield self.action
        for part in self.parts.values():
            yield from part.actions()

    def at(self, path: Sequence[str]) -> "Rule":
        """Return the rule of a part, made here where there is none."""
        return self.parts.setdefault(path[0], Rule(self.action)).at(path[1:]) if path else self

    def __str__(self) -> str:
        """Return the rule as people read it."""
        return ", ".join([self.action, *(f"{path} {action}" for path, action in self.paths())])

    def paths(self, prefix: str = "") -> Iterator[tuple[str, Action]]:
        """Yield the parts with a rule, by their paths."""
        for name, part in self.parts.items():
            yield f"{prefix}{name}", part.action
            yield from part.paths(f"{prefix}{name}.")


@dataclass(frozen=True)
class Policy:
    """The rule of every column of every table. ``unclassified``: of fields that the catalogue does not know."""

    name: str
    rules: Mapping[str, Mapping[str, Rule]]
    unclassified: Action
    key: bytes = field(default=b"", repr=False)

    @property
    def keeps_everything(self) -> bool:
        """Whether rows go on as they came."""
        return self.unclassified == "keep" and all(r.keeps for of in self.rules.values() for r in of.values())

    @property
    def fingerprint(self) -> str:
        """A text that is another one for other rules or another key; empty where everything is kept."""
        if self.keeps_everything:
            return ""
        told = f"{self.rules} {self.unclassified} {self.digest(LABEL) if self.key else ''}"
        return hashlib.sha256(told.encode()).hexdigest()

    def digest(self, value: str) -> str:
        """Return the keyed hash of ``value``: the same wherever the value stands."""
        return hmac.digest(self.key, value.encode(), "sha256").hex()

    def columns(self, table: Table, action: Action) -> list[str]:
        """Return the columns of ``table`` that are treated so, or that have parts that are."""
        return [name for name, rule in self.rules[table.name].items() if action in rule.actions()]

    def apply(self, table: Table, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        """Return ``rows`` as they may be stored, and the fields held back."""
        rules, held_back = self.rules[table.name], []
        for name in rows.column_names:
            column = name.removesuffix(VARIANT)
            if (rule := rules.get(column)) is None:
                if self.unclassified == "drop":
                    held_back.append(name)
                    rows = rows.drop_columns([name])
            elif not rule.keeps:
                kind = table.column(column).type
                place = rows.column_names.index(name)
                rows = rows.set_column(place, rows.schema.field(name), self._treat(rule, kind, rows[name]))
        return rows, held_back

    def _treat(self, rule: Rule, kind: str, values: pa.ChunkedArray) -> pa.Array:
        if rule.action == "drop" and not rule.parts:
            return pa.nulls(len(values), values.type)
        known = values.to_pylist()
        if kind != "json":
            return pa.array([None if v is None else self.digest(v) for v in known], values.type)
        return pa.array([None if v is None else self._treat_json(rule, v) for v in known], values.type)

    def _treat_json(self, rule: Rule, text: str) -> str | None:
        value = self._part(rule, msgspec.json.decode(text))
        return None if value is GONE else msgspec.json.encode(value).decode()

    def _part(self, rule: Rule, value: Any) -> Any:
        if rule.parts and isinstance(value, dict):
            parts = {k: self._part(self._rule_of(rule, k), v) for k, v in value.items()}
            left = {k: v for k, v in parts.items() if v is not GONE}
            return left if left or rule.action == "keep" else GONE
        if rule.parts and isinstance(value, list):
            listed = [self._part(self._rule_of(rule, ANY), v) for v in value]
            return [v for v in listed if v is not GONE]
        if rule.action == "drop":
            return GONE
        if rule.action == "hash" and value is not None:
            return self.digest(value if isinstance(value, str) else _canonical(value))
        return value

    @staticmethod
    def _rule_of(rule: Rule, name: str) -> Rule:
        return rule.parts.get(name) or rule.parts.get(ANY) or Rule(rule.action)


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


# --- reading a policy ---


def load_policy(settings: Settings, *, hashing: bool = True) -> Policy:
    """Return the policy in force. ``hashing``: it is to be applied, not only shown.

    Raises:
        SettingsError: the file cannot be read, has a rule that cannot be kept, or hashes without a key.
    """
    asked = settings.privacy
    rules = {table.name: {column.name: Rule() for column in table.columns} for table in TABLES}
    unclassified: Action = "keep"
    if asked != OPEN:
        file = STRICT_FILE if asked == STRICT else Path(asked)
        written = _read(file, asked)
        if written.get("preset", OPEN) == STRICT:
            unclassified = _take(_read(STRICT_FILE, STRICT), rules, STRICT_FILE, unclassified)
        unclassified = _take(written, rules, file, unclassified)
    policy = Policy(asked, rules, unclassified, settings.privacy_key.encode())
    _refuse_what_cannot_be_kept(policy)
    hashes = any("hash" in rule.actions() for of in rules.values() for rule in of.values())
    if hashing and (hashes or policy.key):
        require_key(policy, f"The privacy policy {policy.name} hashes")
    return policy


def _read(file: Path, asked: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"choose open, strict, or a file that can be read ({error.strerror})"
        raise SettingsError(f"{variable_of('privacy')} is {asked!r}: {why}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not a TOML file: {error}.") from None


def _take(written: Mapping[str, Any], rules: dict[str, dict[str, Rule]], file: Path, unclassified: Action) -> Action:
    """Put the rules of a file into ``rules``; return what becomes of fields nobody knows."""
    for name, value in written.items():
        if name == "preset":
            _choose(file, name, value, (OPEN, STRICT))
        elif name == "unclassified":
            unclassified = _choose(file, name, value, ("keep", "drop"))
        elif name not in rules or not isinstance(value, dict):
            raise SettingsError(f"{file}: there is no table {name}. `propel-assets privacy` shows all.")
        else:
            found = list(_flat(value))
            for path, action in sorted(found, key=lambda rule: rule[0].count(".")):  # a column before its parts
                column, *part = path.split(".")
                if column not in rules[name]:
                    raise SettingsError(
                        f"{file}: {name} has no column {column}. `propel-assets privacy {name}` shows all."
                    )
                if part and BY_NAME[name].column(column).type != "json":
                    raise SettingsError(f"{file}: {name}.{column} is not JSON, so it has no part {'.'.join(part)}.")
                chosen = _choose(file, f"{name}.{path}", action, ACTIONS)
                if part:
                    rules[name][column].at(part).action = chosen
                else:
                    rules[name][column] = Rule(chosen)
    return unclassified


def _flat(written: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in written.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _choose(file: Path, name: str, value: Any, choice: Sequence[str]) -> Any:
    if value not in choice:
        raise SettingsError(f"{file}: {name} is {value!r}; choose {', '.join(choice[:-1])} or {choice[-1]}.")
    return value


def _refuse_what_cannot_be_kept(policy: Policy) -> None:
    for table in TABLES:
        for name, rule in policy.rules[table.name].items():
            where, kind = f"{policy.name}: {table.name}.{name}", table.column(name).type
            if rule.action == "hash" and kind not in {"text", "json"}:
                raise SettingsError(f"{where} is a {kind} and cannot be hashed: keep it, or drop it.")
            if rule.action == "drop" and name in table.key:
                raise SettingsError(f"{where} is in the table's key and cannot be dropped: keep it, or hash it.")
        for reference in table.references:
            for name in reference.columns:
                here, there = policy.rules[table.name][name], policy.rules[reference.table][name]
                if here.action != there.action and here.action != "drop":
                    raise SettingsError(
                        f"{policy.name}: {table.name}.{name} is to {here.action} and {reference.table}.{name} to "
                        f"{there.action}, so that its rows would point at nothing. Give both the same rule."
                    )


def require_key(policy: Policy, why: str) -> None:
    """Refuse to go on without a good key.

    Raises:
        SettingsError: there is none, or it can be guessed.
    """
    variable = variable_of("privacy_key")
    if not policy.key:
        raise SettingsError(
            f"{why}, and {variable} is not set. Set it to a secret text of your own and keep it: openssl rand -hex 32."
        )
    if len(policy.key) < SHORTEST_KEY:
        raise SettingsError(
            f"{variable} is shorter than {SHORTEST_KEY} characters, so it could be guessed: openssl rand -hex 32."
        )


# --- those who were erased ---


def columns_about(columns: Collection[str]) -> list[str]:
    """Return the columns by which a row is about a person: it goes when the person is erased."""
    named = [*ABOUT, *(() if "user_id" in columns else ("email", "username", "api_key_id"))]
    return [name for name in named if name in columns]


def columns_that_mention(columns: Collection[str]) -> list[str]:
    """Return the columns that name a person in a row about something else: they are emptied."""
    return [name for name in MENTIONS if name in columns]


class Erased:
    """The keyed hashes of what identified those who were erased; in dlt's state, which is at the destination."""

    def __init__(self, state: MutableMapping[str, Any], policy: Policy) -> None:
        """Read the list.

        Raises:
            SettingsError: there is a list, and the key is not there or not the one it was made with.
        """
        self._state, self._policy = state, policy
        known = state.get("erased")
        if known:
            require_key(policy, "People were erased from this warehouse")
            if known["key"] != policy.digest(LABEL):
                raise SettingsError(
                    f"People were erased from this warehouse, and {variable_of('privacy_key')} is not the key of then: "
                    "they would come back. Set that key. Nothing was read."
                )
        self._hashes = set(known["people"]) if known else set()

    def __bool__(self) -> bool:
        """Whether anybody was erased."""
        return bool(self._hashes)

    def __contains__(self, value: str | None) -> bool:
        """Whether ``value``, as PropelAuth sends it, identified somebody who was erased."""
        return value is not None and any(self._policy.digest(v) in self._hashes for v in {value, value.lower()})

    def has(self, value: str, *, hashed: bool) -> bool:
        """Whether ``value``, or what it is the keyed hash of, identified a person who was erased."""
        return value in self._hashes if hashed else value in self

    def add(self, hashes: Collection[str]) -> None:
        """Add to the list, which is then to be stored with dlt's state."""
        self._hashes |= set(hashes)
        self._state["erased"] = {"key": self._policy.digest(LABEL), "people": sorted(self._hashes)}

    def leave_out(self, rows: pa.Table) -> pa.Table:
        """Return ``rows`` without those about them, and without their names in others."""
        for name in columns_about(rows.column_names):
            rows = rows.filter(pa.array([value not in self for value in rows[name].to_pylist()], pa.bool_()))
        for name in columns_that_mention(rows.column_names):
            values = pa.array([None if v in self else v for v in rows[name].to_pylist()], rows.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
        return rows


class Gate:
    """What one reading passes on its way to dlt."""

    def __init__(self, settings: Settings, state: MutableMapping[str, Any]) -> None:
        """Read the policy and the list of the erased.

        Raises:
            SettingsError: one of them cannot be kept to; nothing was requested.
        """
        self._policy = load_policy(settings)
        self._erased = Erased(state, self._policy)
        self._state = state
        self._left_out: dict[str, int] = {}
        self._held_back: dict[str, dict[str, str]] = {}
        self._idle = self._policy.keeps_everything and not self._erased

    @property
    def changed(self) -> bool:
        """Whether users were last read in full under another policy: a merge would leave the others as they were."""
        return self._state.get("privacy", "") != self._policy.fingerprint

    def pass_on(self, name: str, rows: pa.Table) -> pa.Table:
        """Return rows of the table ``name`` as they may be stored."""
        if self._idle:
            return rows
        if self._erased:
            before = len(rows)
            rows = self._erased.leave_out(rows)
            self._left_out[name] = self._left_out.get(name, 0) + before - len(rows)
        rows, held_back = self._policy.apply(BY_NAME[name], rows)
        self._held_back.setdefault(name, {}).update(dict.fromkeys(held_back, HELD_BACK))
        return rows

    def count_unknown(self, name: str, ids: set[str], stored: Iterable[str]) -> int:
        """Return how many of ``ids`` are neither ``stored`` in the table ``name`` nor of erased people.

        0 where nothing is stored: the table is not the one that was loaded before.
        """
        hashed = self._policy.rules[name][BY_NAME[name].key[0]].action == "hash"
        left = {self._policy.digest(id_) for id_ in ids} if hashed else ids
        known = 0
        for id_ in stored:
            left.discard(id_)
            known += 1
        return sum(not self._erased.has(id_, hashed=hashed) for id_ in left) if known else 0

    def settle(self, report: Any) -> None:
        """Make ``report`` tell of what was passed on: rows and totals without those who were left out."""
        if report.table_name == "org_membership" and not report.recent:  # it comes with the users
            self._state["privacy"] = self._policy.fingerprint
        if out := self._left_out.get(report.table_name):
            report.rows_read -= out
            report.total_min = None if report.total_min is None else report.total_min - out
            report.total_max = None if report.total_max is None else report.total_max - out
            told = f"{out} row{'' if out == 1 else 's'} of erased people left out"
            report.reason = f"{report.reason}; {told}" if report.reason else told
        report.unknown_fields |= self._held_back.get(report.table_name, {})
        if report.emptied and self._policy.rules["user_query"]["user_id"].action == "hash":
            report.emptied = [self._policy.digest(user_id) for user_id in report.emptied]
