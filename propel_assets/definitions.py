"""Entry point of the stand-alone code location: all definitions, and the executor of the settings."""

from propel_assets.defs.build import build_definitions
from propel_assets.defs.executors import with_executor

defs = with_executor(build_definitions())
