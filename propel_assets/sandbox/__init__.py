"""A PropelAuth on localhost: real HTTP, with a state, every byte decided by a seed and a date.

The package imports no other package of this project. If the server shared paths or field names with the client, a wrong
path would agree with itself and every test would pass.

In the order of the data flow:

- ``people``, ``roles``: users, orgs and members as the API sends them.
- ``seed``: two years of events, from one integer.
- ``belongings``: invites, API keys, SCIM groups, employees.
- ``events``: webhook events.
- ``store``: the state after these events, and its changes. ``live``: changes that go on while the sandbox runs.
- ``insights``: the charts and reports computed from the state and its history.
- ``switches``: the faults: names, allowed values, limits. ``faults``: the faults that are on.
- ``parameters``, ``pages``, ``calls``: requests and responses in the format of the API.
- ``user_endpoints``, ``org_endpoints``, ``insight_endpoints``, ``documents``: the endpoints.
- ``server``: the routes. ``interference``: the effect of faults on a response.
- ``webhooks``: deliveries of webhook events.
- ``running``: ``Sandbox`` for tests, ``serve`` for the command line.
"""
