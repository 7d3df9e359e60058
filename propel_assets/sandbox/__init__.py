"""A PropelAuth on localhost: real HTTP, stateful, every byte decided by a seed and a date.

The room imports nothing else of this package. If the server shared paths or field names with the
client, a wrong path would agree with itself and every test would pass.

In the order data flows:

- ``people``, ``roles``: what a user, an org and a member look like on the wire.
- ``seed``: two years of events, from one integer.
- ``belongings``: invites, API keys, SCIM groups, employees.
- ``store``: the state those events lead to, and what changes it.
- ``insights``: the charts and reports that the state and its history add up to.
- ``switches``: everything that can go wrong: names, allowed values, limits. ``faults``: those that are on.
- ``parameters``, ``pages``, ``calls``: requests read, and answers built, as the API does.
- ``user_endpoints``, ``org_endpoints``, ``insight_endpoints``, ``documents``: what is answered.
- ``server``: the routes. ``interference``: what faults make of an answer.
- ``running``: ``Sandbox`` for tests, ``serve`` for the command line.
"""
