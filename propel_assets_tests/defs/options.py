"""The options of `PropelAuthConfig` as the table in docs/embedding.md.

    python -m propel_assets_tests.defs.options

writes the table again after an option has changed.
"""

import json
from pathlib import Path

from propel_assets import PropelAuthComponent, PropelAuthConfig

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
BEGIN, END = "<!-- options -->\n", "<!-- end of options -->\n"
HOW_TO_UPDATE = "Write the table again: python -m propel_assets_tests.defs.options"


def table() -> str:
    """Return the table in Markdown."""
    options = PropelAuthComponent.model().model_json_schema()["properties"]
    rows = []
    for name, option in options.items():
        meaning, _, default = option["description"].partition(" Default: ")
        rows.append(f"| `{name}` | {default.rstrip('.') or _literal(name)} | {meaning} |")
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows, ""])


def _literal(name: str) -> str:
    default = PropelAuthConfig.model_fields[name].default
    return f"`{json.dumps(default)}`" if default not in (None, {}) else "none"


def page_with(text: str, options: str) -> str:
    """Return the page with the table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{options}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), table()))
