"""Public documents of the tenant; they need no key."""

from propel_assets.catalog.model import DOCS, Document, Table, identifier, json_list, text

DOC = f"{DOCS}/oauth2"

OPENID_CONFIGURATION = Table(
    name="openid_configuration",
    scan="openid_configuration",
    group="public",
    path="/.well-known/openid-configuration",
    key=("issuer",),
    description="The tenant's OpenID Connect discovery document.",
    columns=(
        text("issuer", "The issuer of tokens.", required=True),
        text("authorization_endpoint", "Where users log in."),
        text("token_endpoint", "Where a code is exchanged for tokens."),
        text("userinfo_endpoint", "Where a token is exchanged for its user."),
        text("jwks_uri", "Where the signing keys are published."),
        *(
            json_list(name, "List, as published.")
            for name in (
                "scopes_supported",
                "claims_supported",
                "grant_types_supported",
                "response_types_supported",
                "code_challenge_methods_supported",
                "id_token_signing_alg_values_supported",
                "subject_types_supported",
                "token_endpoint_auth_methods_supported",
            )
        ),
    ),
    shape=Document("none"),
    doc=DOC,
)

JWKS = Table(
    name="jwks",
    scan="jwks",
    group="public",
    path="/.well-known/jwks.json",
    items="keys",
    key=("kid",),
    description="The public keys that verify tokens.",
    columns=(
        identifier("kid", "The key's id.", required=True),
        text("kty", "The key type, for example `RSA`.", required=True),
        text("use", "The purpose of the key."),
        text("alg", "The algorithm."),
        text("n", "RSA modulus (public)."),
        text("e", "RSA exponent (public)."),
    ),
    shape=Document("none"),
    doc=DOC,
)
