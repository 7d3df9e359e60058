"""Seeded fault schedules against the real command and real databases; see `docs/guarantees.md`.

`schedule.py` draws what goes wrong, `warehouses.py` has the databases, `play.py` lets a schedule happen and judges what
is left, `__main__.py` plays many at once. The command is `python -m propel_assets_tests.soak`.
"""
