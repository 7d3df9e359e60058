"""How many random cases a test runs: a fifth, or all of them where ALL_CASES is set (`make test-models`)."""

import os


def cases(number: int) -> int:
    """Return how many of ``number`` cases to run."""
    return number if os.environ.get("ALL_CASES") else number // 5
