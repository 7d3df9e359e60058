"""The presets `open` and `strict`, derived from the privacy class of each column and the exceptions in the catalog.

`strict`: values that join tables are hashed, other personal data is dropped, and free-form data is dropped because its
content is unknown. Random ids are kept: they name no person by themselves, and every join needs them.
"""

from propel_assets.catalog import TABLES, Column, PrivacyClass
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


def preset_rules(preset: str) -> dict[str, dict[str, Rule]]:
    """Return the rules of a preset, by table and column."""
    return {table.name: {column.name: _rule(column, preset) for column in table.columns} for table in TABLES}


def _rule(column: Column, preset: str) -> Rule:
    if preset == OPEN:
        return Rule()
    rule = Rule(column.strict or STRICT_ACTIONS[column.privacy])
    for path, action in column.strict_parts:
        rule.at(path.split(".")).action = action
    return rule
