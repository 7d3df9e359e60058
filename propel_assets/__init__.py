"""PropelAuth in your warehouse, as Dagster assets.

The rooms, in the order data flows; each imports only from those before it, plus `settings` and `errors`:

0. `sandbox/`: a PropelAuth on localhost. Imports nothing of ours.
1. `source/`: PropelAuth to rows. HTTP and dlt; no Dagster. Start with `catalog/__init__.py`, the catalogue.
2. `warehouse/`: rows to tables, and what is promised of them. dlt and SQL; no Dagster.
3. `reporting/`: alert delivery. No Dagster.
4. `defs/`: tables to assets, checks, schedules and sensors. Dagster.

`definitions.py` is the way in for Dagster, `cli.py` for people.
"""

__version__ = "0.1.0"
