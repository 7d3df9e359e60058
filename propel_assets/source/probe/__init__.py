"""Measure the behaviour of a tenant that PropelAuth's documentation does not specify: at most 52 read-only requests.

`probe` returns findings, each with what the project does about it, and a profile that the sandbox replays. Neither has
personal data, ids, keys, or a host: of bodies only field names, types, counts and statuses are kept. A text of an error
is kept only if it is one that PropelAuth's clients know.
"""
