"""The access review: who had which role in which org at the end of a day, since when, and what changed in a period.

Everything is read from the histories, which later loads do not change, so the same period gives the same bytes. A
change lies in an interval: after one time when the row was read, and before another.
"""
