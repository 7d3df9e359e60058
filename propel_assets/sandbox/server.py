"""The app: routes, keys, and statuses. Read-only, except for the faults.

Only ``POST`` and ``DELETE /sandbox/faults`` change the state. Endpoints that create, edit, delete, send e-mail, consume
grants or count usage do not exist.

Requests to the auth URL and those of PropelAuth's clients (another host and the header ``X-Propelauth-url``) are
treated alike: the header is ignored.
"""

import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from propel_assets.sandbox.calls import Call
from propel_assets.sandbox.documents import PUBLIC_KEY_PEM, jwks, openid_configuration
from propel_assets.sandbox.faults import ActiveFaults, Faults
from propel_assets.sandbox.insight_endpoints import InsightEndpoints
from propel_assets.sandbox.interference import BACKEND, CONTROL_PATH, Interference
from propel_assets.sandbox.org_endpoints import OrgEndpoints
from propel_assets.sandbox.parameters import Refusal, refuse
from propel_assets.sandbox.store import Store
from propel_assets.sandbox.user_endpoints import UserEndpoints
from propel_assets.sandbox.webhooks import Webhooks

API_KEY = "sandbox-api-key"
USER_TOKEN = "sandbox-user-token"  # noqa: S105 - of this sandbox only

Handler = Callable[[Call], Any]


def build_app(
    store: Store,
    faults: Faults,
    log_request: Callable[[Request, ActiveFaults], None],
    webhooks: Webhooks,
) -> Interference:
    """Return the ASGI app of one environment.

    Args:
        store: the state.
        faults: the switches, which can change while the app runs.
        log_request: called with each request to the API before the response.
        webhooks: the deliveries of webhook events.
    """
    control = [
        Route(CONTROL_PATH, _status(store, faults)),
        Route(f"{CONTROL_PATH}/faults", _switches(faults), methods=["GET", "POST", "DELETE"]),
        Route(f"{CONTROL_PATH}/webhooks", lambda _: JSONResponse(webhooks.describe())),
    ]
    api = [
        _route(store, path, handler, token=token, methods=methods or ["GET"])
        for token, routes in _routes(store).items()
        for path, handler, *methods in routes
    ]
    return Interference(Starlette(routes=[*control, *api]), faults, log_request)


def _routes(store: Store) -> dict[str | None, list[tuple[Any, ...]]]:
    """Return (path, handler, methods if not GET) by the bearer token needed."""
    backend = [*_user_routes(store), *_org_routes(store), *_insight_routes(store)]
    return {
        None: [
            ("/.well-known/openid-configuration", lambda call: openid_configuration(call.base_url)),
            ("/.well-known/jwks.json", lambda _: jwks()),
        ],
        USER_TOKEN: [("/propelauth/oauth/userinfo", UserEndpoints(store).userinfo)],
        API_KEY: [
            (
                "/api/v1/token_verification_metadata",
                lambda _: {"verifier_key_pem": PUBLIC_KEY_PEM},
            ),
            (
                f"{BACKEND}/token_verification_metadata",
                lambda _: {"public_key_pem": PUBLIC_KEY_PEM},
            ),
            *((f"{BACKEND}/{path}", handler, *methods) for path, handler, *methods in backend),
        ],
    }


def _user_routes(store: Store) -> list[tuple[Any, ...]]:
    """Return the routes of users. The first path that matches is used."""
    users = UserEndpoints(store)
    return [
        ("user/query", users.user_query),
        ("user/email", users.user_by_email),
        ("user/username", users.user_by_username),
        ("user/user_ids", users.users_by_ids, "POST"),
        ("user/emails", users.users_by_emails, "POST"),
        ("user/usernames", users.users_by_usernames, "POST"),
        ("user/org/{org_id}", users.users_in_org),
        ("user/{user_id}", users.user_by_id),
        ("user/{user_id}/signup_query_parameters", users.signup_query_parameters),
        ("user/{user_id}/mfa", users.mfa),
        ("user/{user_id}/oauth_token", users.oauth_tokens),
        ("user/{user_id}/{provider}/fresh_token", users.fresh_token),
        ("employee/{employee_id}", users.employee),
    ]


def _org_routes(store: Store) -> list[tuple[Any, ...]]:
    """Return the routes of orgs, API keys and SCIM groups. The first path that matches is used."""
    orgs = OrgEndpoints(store)
    return [
        ("org/query", orgs.org_query, "GET", "POST"),
        ("org/{org_id}", orgs.org_by_id),
        ("custom_role_mappings", orgs.custom_role_mappings),
        ("pending_org_invites", orgs.pending_org_invites),
        ("saml_sp_metadata/{org_id}", orgs.saml_sp_metadata),
        ("end_user_api_keys", orgs.api_keys),
        ("end_user_api_keys/archived", orgs.archived_api_keys),
        ("end_user_api_keys/usage", orgs.api_key_usage),
        ("end_user_api_keys/{api_key_id}", orgs.api_key),
        ("scim/{org_id}/groups", orgs.scim_groups),
        ("scim/{org_id}/groups/{group_id}", orgs.scim_group),
    ]


def _insight_routes(store: Store) -> list[tuple[Any, ...]]:
    """Return the routes of User Insights."""
    insights = InsightEndpoints(store)
    return [
        ("user_report/{report_type}", insights.user_report),
        ("org_report/{report_type}", insights.org_report),
        ("chart_metrics/{metric}", insights.chart_metrics),
    ]


class _JsonResponse(JSONResponse):
    """A JSON body. Text that UTF-8 does not have, such as half of a UTF-16 pair, is sent as ASCII escapes."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        try:
            return super().render(content)
        except UnicodeEncodeError:
            return json.dumps(content, allow_nan=False).encode()


def _route(store: Store, path: str, handler: Handler, *, token: str | None, methods: list[str]) -> Route:
    """Return a route that checks the bearer token, calls ``handler`` and responds with JSON."""

    async def endpoint(request: Request) -> Response:
        if token and request.headers.get("authorization") != f"Bearer {token}":
            return PlainTextResponse("Unauthorized", 401)
        try:
            call = await _read_call(request)
            with store.lock:
                return _JsonResponse(handler(call))
        except Refusal as refusal:
            if refusal.body is None:
                return Response(status_code=refusal.status)
            return JSONResponse(refusal.body, refusal.status)

    return Route(path, endpoint, methods=methods)


async def _read_call(request: Request) -> Call:
    """Return the request as the endpoints see it.

    Raises:
        Refusal: a body is not a JSON object.
    """
    body: Any = {}
    if request.method == "POST":
        try:
            body = await request.json()
        except ValueError:
            raise refuse("body", "must be JSON") from None
        if not isinstance(body, dict):
            raise refuse("body", "must be a JSON object")
    return Call(
        path=request.path_params,
        query={**request.query_params, **body},
        body=body,
        base_url=str(request.base_url).rstrip("/"),
        active=request.scope["active"],
    )


def _status(store: Store, faults: Faults) -> Callable[[Request], Response]:
    """Return the endpoint with the size and the settings of this sandbox. Not part of PropelAuth."""

    def endpoint(request: Request) -> Response:
        with store.lock:
            return JSONResponse(
                {
                    "seed": store.seed,
                    "now": store.now,
                    "users": len(store.users),
                    "orgs": len(store.orgs),
                    "api_key": API_KEY,
                    "user_token": USER_TOKEN,
                    "faults": faults.describe(),
                }
            )

    return endpoint


def _switches(faults: Faults) -> Callable[[Request], Any]:
    """Return the endpoint of the faults. Not part of PropelAuth."""

    async def endpoint(request: Request) -> Response:
        if request.method == "DELETE":
            faults.clear()
        if request.method == "POST":
            try:
                faults.update(await request.json())
            except (ValueError, RecursionError) as error:
                return JSONResponse({"error": str(error), "faults": faults.describe()}, 400)
        return JSONResponse(faults.describe())

    return endpoint
