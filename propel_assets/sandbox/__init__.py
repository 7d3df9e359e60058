"""A PropelAuth on localhost: real HTTP, stateful, every byte decided by a seed and a date.

The room imports nothing else of this package. If the server shared paths or field names with the
client, a wrong path would agree with itself and every test would pass.

- ``people``: what one user and one org look like on the wire.
- ``roles``: roles, what they may do, and a member as ``org_id_to_org_info`` shows them.
- ``seed``: two years of events, from one integer.
- ``store``: the state those events lead to, and what changes it.
- ``insights``: the charts and reports that the state and its history add up to.
- ``parameters``: query strings and bodies read as the API reads them.
- ``faults``: everything that can go wrong, as switches.
- ``server``: routes, envelopes and statuses, as the real API answers.
- ``documents``: the public documents of the environment.
- ``running``: ``Sandbox`` for tests, ``serve`` for the command line.
- ``frozen``: pages computed once and served fast, for benchmarks.
"""
