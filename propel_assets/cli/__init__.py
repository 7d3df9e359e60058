"""The command line: one module per group of commands. Heavy imports are inside functions, so that `--help` is fast."""
