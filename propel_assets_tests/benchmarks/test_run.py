"""The benchmark runs, and every variant that is installed with the tests loads the same rows. Nothing is timed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIANTS = ("ours", "ours-dagster", "floor", "recipe-best", "parallel", "ours-users", "floor-users", "recipe-100")


@pytest.mark.slow
def test_every_variant_loads_the_same_rows(tmp_path: Path) -> None:
    only = [word for name in VARIANTS for word in ("--only", name)]
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--sizes", "1000", "1000", "1000"]
    command += ["--scene", "small", "--repeat", "1", "--pages", str(tmp_path / "pages"), *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rows [1000, ") == 5
    assert done.stdout.count("rows [1000]") == 3
