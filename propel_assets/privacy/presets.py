"""The preset `strict`, derived from the privacy class of each column and the exceptions beside it in the catalog.

Values that join tables are hashed, other personal data is dropped, and free-form data is dropped because its content is
unknown. Random ids are kept: they name no person by themselves, and every join needs them.
"""

from propel_assets.catalog import PrivacyClass, Table
from propel_assets.catalog.model import Action

ACTIONS: dict[PrivacyClass, Action] = {
    "none": "keep",
    "identifier": "keep",
    "direct_identifier": "hash",
    "personal": "drop",
    "free_form": "drop",
}


def strict_rules(table: Table) -> dict[str, Action]:
    """Return the action for each column of ``table``, and for each path within a JSON column that has its own."""
    rules: dict[str, Action] = {}
    for column in table.columns:
        rules[column.name] = column.strict or ACTIONS[column.privacy]
        rules.update({f"{column.name}.{path}": action for path, action in column.strict_parts})
    return rules
