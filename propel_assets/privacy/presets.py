"""The presets `open` and `strict`, derived from the privacy class of each column and the exceptions in the catalog.

`strict`: values that join tables are hashed, other personal data is dropped, and free-form data is dropped because its
content is unknown. Random ids are kept: they name no person by themselves, and every join needs them.
"""

from collections.abc import Callable

from propel_assets.catalog import TABLES, PrivacyClass, Table
from propel_assets.catalog.model import Action
from propel_assets.privacy.policy import Rule

OPEN, STRICT = "open", "strict"
STRICT_ACTIONS: dict[PrivacyClass, Action] = {
    "none": "keep",
    "identifier": "keep",
    "direct_identifier": "hash",
    "personal": "drop",
    "free_form": "drop",
}
UNCLASSIFIED: dict[str, Action] = {OPEN: "keep", STRICT: "drop"}
"""What each preset stores of fields that the catalog does not declare."""


def open_rules(table: Table) -> dict[str, Rule]:
    """Return a rule for each column of ``table`` that keeps it."""
    return {column.name: Rule() for column in table.columns}


def strict_rules(table: Table) -> dict[str, Rule]:
    """Return the rule of `strict` for each column of ``table``."""
    rules: dict[str, Rule] = {}
    for column in table.columns:
        rules[column.name] = Rule(column.strict or STRICT_ACTIONS[column.privacy])
        for path, action in column.strict_parts:
            rules[column.name].at(path.split(".")).action = action
    return rules


RULES: dict[str, Callable[[Table], dict[str, Rule]]] = {OPEN: open_rules, STRICT: strict_rules}


def preset_rules(preset: str) -> dict[str, dict[str, Rule]]:
    """Return the rules of a preset, by table and column."""
    return {table.name: RULES[preset](table) for table in TABLES}
