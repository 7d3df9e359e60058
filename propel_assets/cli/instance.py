"""What the commands that run Dagster share: the Dagster instance, and paths as people type them."""

import shutil
from pathlib import Path

from propel_assets.settings import dagster_home


def prepare_dagster_home() -> Path:
    """Return the folder of the Dagster instance: DAGSTER_HOME, or .dagster_home here.

    A new folder gets our settings; an instance that exists keeps its own.
    """
    variable = dagster_home()
    home = Path(variable) if variable else Path(".dagster_home").resolve()
    if not home.exists() or not any(home.iterdir()):
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("dagster.yaml"), home)
    return home


def short_path(folder: Path) -> str:
    """Return ``folder`` relative to the working directory where it is below it."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
