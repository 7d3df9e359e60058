"""Run the command line as `python -m propel_assets.cli`."""

from propel_assets.cli.main import main

main()
