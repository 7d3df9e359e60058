"""What `propel-assets demo` and `propel-assets dev` share: the Dagster instance, and paths as people type them."""

import shutil
from pathlib import Path

from propel_assets.settings import dagster_home


def prepare_dagster_home() -> Path:
    """Return the folder of the Dagster instance, created when missing: DAGSTER_HOME, or .dagster_home here."""
    variable = dagster_home()
    home = Path(variable) if variable else Path(".dagster_home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), home)
    return home


def short_path(folder: Path) -> str:
    """Return ``folder`` relative to the working directory where it is below it."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
