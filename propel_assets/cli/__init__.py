"""The command line: one module per group of commands. Heavy imports are inside functions, so that `--help` is fast.

- ``main``: the group `propel-assets`, its exit codes, and the order of commands in `--help`.
- ``arguments``: argument types that several commands take. ``rendering``: tables, messages and progress.
- ``load``, ``status`` (also `check`), ``report`` (also `alert`), ``privacy`` (also `erase`), ``tables`` (also
  `lineage`), ``sandbox`` (also `fault`), ``trial`` (`demo` and `dev`).
- ``demo``, ``dev``: what `propel-assets demo` and `propel-assets dev` run. They import Dagster.
"""
