"""Arrow's compute functions."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
"""Typed as Any: the functions are created at import, so type checkers do not see them."""
