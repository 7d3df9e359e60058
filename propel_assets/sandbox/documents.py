"""The public documents of the environment: its OpenID configuration and its verifier key.

There is no private key: it was deleted when the public key was created.

Source: the captured document in api-evangelist/stilta; PropelAuth/propelauth-py 20487b0,
``api/token_verification_metadata.py``; PropelAuth/rust 65dbaf5, ``auth_service_api.rs``.
"""

import base64
from typing import Any

PUBLIC_KEY_PEM = """\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAuReZOPaANV4H+jwDa8FG
mp4D3/d6fz7ayXu+EfjHJe/A3r9OXa4CWzOmHuXiboVdyT6hlfI5y/8oCbptQdw0
wCjQj3la+Rdfd1T+TlyWVbBWlKr11QAL97ji4NnH/VDa0uUaU1wVAa0EMXwN9w2j
+lZk+nB0LAadY/Y4uICAOF+IZSU7VRhVUR5uxiW3N4bG/296Ugzh6pIkRd76GM03
3HY0jek+Ido78VRFH2wDYdAsZe4B6qSKgv+Xiz4FznlRo6HiS5EDtygutfMhvmQW
2RwtrT0RNiS0+Th4Fjr3xty0k9OJLtosDHOmuaaJRZqibes3nviX6irShnJufbw4
iwIDAQAB
-----END PUBLIC KEY-----
"""


def jwks() -> dict[str, Any]:
    """Return the key set: the one RSA key, 2048 bits, exponent 65537."""
    der = base64.b64decode("".join(PUBLIC_KEY_PEM.splitlines()[1:-1]))
    modulus = der[-261:-5]  # before it the headers, after it the exponent
    return {
        "keys": [
            {
                "kty": "RSA",
                "use": "sig",
                "alg": "RS256",
                "kid": "sandbox-key",
                "n": base64.urlsafe_b64encode(modulus).decode().rstrip("="),
                "e": "AQAB",
            }
        ]
    }


def openid_configuration(auth_url: str) -> dict[str, Any]:
    """Return the discovery document of the environment at ``auth_url``."""
    return {
        "issuer": auth_url,
        "authorization_endpoint": f"{auth_url}/propelauth/oauth/authorize",
        "token_endpoint": f"{auth_url}/propelauth/oauth/token",
        "userinfo_endpoint": f"{auth_url}/propelauth/oauth/userinfo",
        "jwks_uri": f"{auth_url}/.well-known/jwks.json",
        "scopes_supported": ["openid", "email", "profile"],
        "claims_supported": [
            "email",
            "email_verified",
            "exp",
            "first_name",
            "iat",
            "iss",
            "last_name",
            "picture_url",
        ],
        "grant_types_supported": ["authorization_code"],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "subject_types_supported": ["public"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }
