"""Reading a privacy policy: a preset, or a TOML file that changes a preset."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from propel_assets.catalog import BY_NAME, TABLES
from propel_assets.catalog.model import Action
from propel_assets.errors import SettingsError
from propel_assets.privacy.policy import ACTIONS, ANY, Policy, Rule, require_key
from propel_assets.privacy.presets import OPEN, UNCLASSIFIED, preset_rules
from propel_assets.settings import PrivacySettings, variable_of

Rules = dict[str, dict[str, Rule]]

NEW_FIELDS = "new_fields"


def load_policy(settings: PrivacySettings, *, needs_key: bool = True) -> Policy:
    """Return the policy in force. ``needs_key``: refuse a policy that hashes without a key; not needed to show it.

    Raises:
        SettingsError: the file cannot be read, a rule is impossible, or the key is missing.
    """
    name = settings.policy or OPEN
    policy = Policy(name, preset_rules(name), UNCLASSIFIED[name]) if name in UNCLASSIFIED else _read_file(Path(name))
    policy = replace(policy, key=settings.key.encode())
    _refuse_impossible_rules(policy)
    if needs_key and (policy.hashes or policy.key):
        require_key(policy, f"The privacy policy {policy.name} hashes columns")
    return policy


def _read_file(file: Path) -> Policy:
    """Return the policy of a file, without the key."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        advice = f"choose open, strict, or a file that can be read ({error.strerror})"
        raise SettingsError(f"{variable_of('privacy')} is {str(file)!r}: {advice}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not a TOML file: {error}.") from None
    preset = _require_choice(file, "preset", document.pop("preset", OPEN), tuple(UNCLASSIFIED))
    unclassified = document.pop("unclassified", UNCLASSIFIED[preset])
    _require_choice(file, "unclassified", unclassified, ("keep", "drop"))
    rules = preset_rules(preset)
    new_fields = _read_new_fields(document.pop(NEW_FIELDS, {}), rules, file)
    for name, value in document.items():
        if name not in rules:
            raise SettingsError(
                f"{file}: {name} is neither a setting nor a table. `propel-assets privacy` lists the tables."
            )
        _require_toml_table(name, value, file, "one rule per column")
        _add_table_rules(name, value, rules[name], file)
    return Policy(str(file), rules, unclassified, new_fields=new_fields)


def _require_toml_table(name: str, value: Any, file: Path, rules: str) -> None:
    if not isinstance(value, dict):
        raise SettingsError(f"{file}: {name} must be a TOML table. Write [{name}] and {rules} below it.")


def _read_new_fields(document: Any, rules: Rules, file: Path) -> dict[str, dict[str, Action]]:
    """Return the actions of fields that the catalog does not declare.

    A field that a later version of the catalog declares gets its action as the rule of the column in ``rules``.
    """
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: {NEW_FIELDS} must have a TOML table for each table: [{NEW_FIELDS}.user_query].")
    found: dict[str, dict[str, Action]] = {}
    for name, value in document.items():
        if name not in rules:
            raise SettingsError(
                f"{file}: {NEW_FIELDS}.{name} is not a table. `propel-assets privacy` lists the tables."
            )
        _require_toml_table(f"{NEW_FIELDS}.{name}", value, file, "one rule per field")
        for field, action in value.items():
            chosen = _require_choice(file, f"{NEW_FIELDS}.{name}.{field}", action, ("keep", "drop"))
            if field in rules[name]:
                rules[name][field] = Rule(chosen)
            else:
                found.setdefault(name, {})[field] = chosen
    return found


def _add_table_rules(name: str, document: Mapping[str, Any], rules: dict[str, Rule], file: Path) -> None:
    for path, action in sorted(_flatten(document), key=_order):
        column, *part = path.split(".")
        if column not in rules:
            raise SettingsError(
                f"{file}: {name} has no column {column}. `propel-assets privacy {name}` lists its columns."
            )
        if part and BY_NAME[name].column(column).type != "json":
            raise SettingsError(f"{file}: {name}.{column} is not JSON, so it has no part {'.'.join(part)}.")
        chosen = _require_choice(file, f"{name}.{path}", action, ACTIONS)
        if part:
            rule = rules[column].at(part)
            rule.action = chosen
            if chosen != "keep":
                rule.parts.clear()  # parts that `*`, or the preset, keeps
        else:
            rules[column] = Rule(chosen)


def _order(rule: tuple[str, Any]) -> list[tuple[bool, str]]:
    """Order a column before its parts, and `*` with its parts before the parts with a name, which begin as it is."""
    return [(name != ANY, name) for name in rule[0].split(".")]


def _flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _require_choice(file: Path, name: str, value: Any, choice: Sequence[str]) -> Any:
    if value not in choice:
        raise SettingsError(f"{file}: {name} is {value!r}; choose {', '.join(choice[:-1])} or {choice[-1]}.")
    return value


def _refuse_impossible_rules(policy: Policy) -> None:
    for table in TABLES:
        for name, rule in policy.rules[table.name].items():
            place, column_type = f"{policy.name}: {table.name}.{name}", table.column(name).type
            if rule.action == "hash" and column_type not in {"text", "json"}:
                raise SettingsError(f"{place} is a {column_type} and cannot be hashed: keep it, or drop it.")
            if rule.action == "drop" and name in table.key:
                raise SettingsError(f"{place} is in the table's key and cannot be dropped: keep it, or hash it.")
        for reference in table.references:
            for name in reference.columns:
                here, there = policy.rules[table.name][name], policy.rules[reference.table][name]
                if here.action != there.action and here.action != "drop":
                    raise SettingsError(
                        f"{policy.name}: {table.name}.{name} has the rule {here.action} and {reference.table}.{name} "
                        f"the rule {there.action}, so the two could not be joined. Give both the same rule."
                    )
