"""The command line. Each command imports what it needs, so that `--help` answers at once."""
