"""One user and one org as the API sends them, drawn from a random generator.

This module has names, texts, custom properties, and how often an optional field is present. ``seed.py`` has the times
of events, ``store.py`` the memberships.

Source of the fields: PropelAuth/propelauth-py 20487b0 (``api/user.py``, ``types/user.py``) and the
example bodies of PropelAuth's Postman collection: optional scalars are left out when unset,
``metadata`` of a user is an explicit null.
"""

# ruff: noqa: RUF001 - names in other scripts look like Latin

from dataclasses import dataclass, field
from random import Random
from typing import Any

DAY = 86_400

# (as written, as in an e-mail address)
FIRST_NAMES = (
    ("Ada", "ada"), ("Grace", "grace"), ("Łukasz", "lukasz"), ("Zoë", "zoe"), ("José", "jose"),
    ("Ngozi", "ngozi"), ("Siân", "sian"), ("Yağmur", "yagmur"), ("Дмитрий", "dmitri"),
    ("Ольга", "olga"), ("Νίκος", "nikos"), ("小芳", "xiaofang"), ("伟", "wei"),
    ("さくら", "sakura"), ("健太", "kenta"), ("민준", "minjun"), ("서연", "seoyeon"),
    ("محمد", "mohamed"), ("فاطمة", "fatima"), ("נועה", "noa"), ("अनन्या", "ananya"),
    ("ธนา", "thana"), ("Þóra", "thora"), ("Tuấn", "tuan"), ("Zeynep", "zeynep"),
    ("Seán", "sean"), ("Jean-Luc", "jean-luc"), ("Mary Ann", "maryann"), ("გიორგი", "giorgi"),
    ("Արամ", "aram"), ("தமிழ்", "tamil"), ("Kofi", "kofi"), ("🦊 Fox", "fox"),
)  # fmt: skip
LAST_NAMES = (
    ("Lovelace", "lovelace"), ("O'Brien", "o'brien"), ("Müller", "mueller"), ("Ñíguez", "niguez"),
    ("Østergård", "ostergard"), ("van der Berg", "vanderberg"), ("Nguyễn", "nguyen"),
    ("Иванова", "ivanova"), ("Παπαδοπούλου", "papadopoulou"), ("王", "wang"), ("佐藤", "sato"),
    ("김", "kim"), ("الحسن", "alhassan"), ("כהן", "cohen"), ("शर्मा", "sharma"), ("ใจดี", "jaidee"),
    ("Çelik", "celik"), ('Smith "Smitty"', "smith"), ("D'Angelo", "dangelo"), ("Okafor", "okafor"),
    ("Šimůnek", "simunek"), ("Szőke", "szoke"), ("Ćosić", "cosic"), ("Jones; --", "jones"),
)  # fmt: skip
ORG_NAMES = (
    "Acme Widgets", "Żubr & Synowie", "株式会社みどり", 'The "Quoted" Company', "Café Zoë",
    "Ångström Labs", "ООО Ромашка", "한빛 소프트", "مؤسسة النور", "Smith, Jones & Co.",
    "Crème Brûlée GmbH", "Tab\tand Space", "O'Neil's Hardware", "100% Organic", "Ελιά ΑΕ",
    "North/South Logistics", "חברת הגליל", "भारत टेक", "Blue Fox 🦊", "Null Island Surveys",
)  # fmt: skip
NOTES = (
    'Said "call me back",\nthen hung up.',
    "Línea 1\nlínea 2\r\n\ttabulated",
    "Back\\slash, 'single', \"double\", `tick`; drop table users; --",
    "右から左へ مرحبا שלום 👩‍👩‍👧‍👦 ∑ √ ≠",
    "",
)
PUBLIC_MAIL_DOMAINS = ("mail.example", "post.example", "inbox.example")
DEPARTMENTS = ("Engineering", "Sales", "Ventas", "マーケティング", "Finance", "Support")
SOURCES = ("newsletter", "search", "conference", "podcast")
SOCIAL_PROVIDERS = ("google", "github", "microsoft", "slack")


@dataclass(slots=True)
class User:
    """One user: the object of the API, and data of other endpoints."""

    wire: dict[str, Any]
    """The object as ``user/query`` sends it, without ``org_id_to_org_info``."""
    activity: int = 1
    """Bit *i* is set when the user was active on day *i* of the history."""
    signup_query_parameters: dict[str, str] = field(default_factory=dict)
    mfa_setup: dict[str, Any] | None = None
    social_provider: str | None = None

    @property
    def user_id(self) -> str:
        """The uuid, version 4, lower case."""
        return self.wire["user_id"]


@dataclass(slots=True)
class Org:
    """One org: the object of the API, and the roles of its members."""

    wire: dict[str, Any]
    """The object as ``org/{org_id}`` sends it."""
    created_at: int
    """Unix seconds. Only lists show it."""
    role_mapping: str = "Default"

    @property
    def org_id(self) -> str:
        """The uuid, version 4, lower case."""
        return self.wire["org_id"]


def draw_uuid(rng: Random) -> str:
    """Return a lower-case uuid of version 4, the only one propelauth-py looks up."""
    digits = f"{rng.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def draw_user(rng: Random, serial: int, created_at: int, *, domain: str | None, late: bool) -> User:
    """Return a user who signed up at ``created_at`` (Unix seconds) and was not active later.

    Args:
        rng: source of randomness.
        serial: unique among users; makes the address and the username unique.
        created_at: the time of the sign-up.
        domain: of a company address; None for a public mail provider.
        late: after the day on which the property ``theme`` was switched on.
    """
    draw = rng.random
    first, first_handle = FIRST_NAMES[int(draw() * len(FIRST_NAMES))]
    last, last_handle = LAST_NAMES[int(draw() * len(LAST_NAMES))]
    handle = f"{first_handle}.{last_handle}.{serial}"
    social = SOCIAL_PROVIDERS[int(draw() * 4)] if draw() < 0.35 else None
    wire: dict[str, Any] = {
        "user_id": draw_uuid(rng),
        "email": _draw_email(draw(), handle, domain or PUBLIC_MAIL_DOMAINS[serial % 3]),
        "email_confirmed": draw() < 0.93,
        "has_password": social is None,
    }
    if draw() < 0.8:
        wire["username"] = handle.replace("'", "")
    if draw() < 0.9:
        wire["first_name"], wire["last_name"] = first, last
    if draw() < 0.6:
        wire["picture_url"] = f"https://img.example/avatars/{wire['user_id']}.png"
    wire["properties"] = draw_properties(rng, late=late)
    wire["metadata"] = {"crm_id": serial, "tags": ["vip", "beta"]} if draw() < 0.1 else None
    wire |= {
        "locked": draw() < 0.01,
        "enabled": draw() >= 0.03,
        "mfa_enabled": draw() < 0.22,
        "can_create_orgs": draw() < 0.7,
        "created_at": created_at,
        "last_active_at": created_at,
        "update_password_required": draw() < 0.02,
    }
    user = User(wire, social_provider=social)
    if draw() < 0.3:
        user.signup_query_parameters = {"utm_source": SOURCES[int(draw() * 4)], "utm_campaign": "ñ"}
    if wire["mfa_enabled"]:
        user.mfa_setup = _draw_mfa(rng)
    return user


def draw_properties(rng: Random, *, late: bool) -> dict[str, Any]:
    """Return a user's custom properties: every type the dashboard offers, and awkward names."""
    draw = rng.random
    properties: dict[str, Any] = {
        "department": DEPARTMENTS[int(draw() * len(DEPARTMENTS))],
        "company_size": int(draw() * 5000),
        "newsletter": draw() < 0.5,
    }
    if draw() < 0.4:
        properties["tos"] = True
        properties["referral_source"] = SOURCES[int(draw() * 4)]
    if draw() < 0.3:
        properties["phone_number"] = f"+1555{int(draw() * 10_000_000):07d}"
    if draw() < 0.25:
        properties["birthday"] = f"19{60 + int(draw() * 40)}-0{1 + int(draw() * 9)}-15"
        properties["site"] = "https://example.com/?q=a%20b&x=[1]#top"
    if draw() < 0.15:
        properties["notes"] = NOTES[int(draw() * len(NOTES))]
    if draw() < 0.1:
        properties |= {"select": "yes", "a.b": draw(), "metadata": {"nested": [1, {"x": None}]}}
    if late:
        properties["theme"] = "dark" if draw() < 0.5 else "light"
    return properties


def draw_org(rng: Random, serial: int, created_at: int) -> Org:
    """Return an org created at ``created_at`` (Unix seconds), without members.

    Args:
        rng: source of randomness.
        serial: unique among orgs; makes the name, the slug and the domain unique.
        created_at: the time of its creation.
    """
    draw = rng.random
    name = ORG_NAMES[serial % len(ORG_NAMES)]
    saml = draw() < 0.2
    wire: dict[str, Any] = {
        "org_id": draw_uuid(rng),
        "name": name if serial < len(ORG_NAMES) else f"{name} {serial}",
        "url_safe_org_slug": f"org-{serial}",
        "can_setup_saml": saml or draw() < 0.1,
        "is_saml_configured": saml,
        "is_saml_in_test_mode": saml and draw() < 0.25,
    }
    if draw() < 0.7:
        wire["domain"] = f"company-{serial}.example"
    wire |= {
        "extra_domains": [f"company-{serial}.test"] if draw() < 0.15 else [],
        "domain_autojoin": "domain" in wire and draw() < 0.5,
        "domain_restrict": "domain" in wire and draw() < 0.2,
        "password_rotation_enabled": draw() < 0.1,
        "password_rotation_history_size": 10,
        "password_rotation_period": 30 * DAY,
        "isolated": False,
    }
    if draw() < 0.3:
        wire["max_users"] = (5, 25, 100, 1000)[int(draw() * 4)]
    if draw() < 0.4:
        wire["metadata"] = {"plan": "pro", "notes": NOTES[serial % len(NOTES)], "seats": [1, 2]}
    if draw() < 0.1:
        wire["legacy_org_id"] = f"legacy-org-{serial}"
    role_mapping = ("Default", "Default", "Enterprise", "Project teams")[int(draw() * 4)]
    if role_mapping != "Default":
        wire["custom_role_mapping_name"] = role_mapping
    return Org(wire, created_at, role_mapping)


def _draw_email(chance: float, handle: str, domain: str) -> str:
    """Return an e-mail address; some have a plus sign or characters other than ASCII."""
    if chance < 0.03:
        return f"{handle}+trial@{domain}"
    if chance < 0.04:
        return f"josé.{handle}@{domain}"
    return f"{handle}@{domain}"


def _draw_mfa(rng: Random) -> dict[str, Any]:
    """Return how a user proves a second factor: an app, or one or two phones."""
    if rng.random() < 0.7:
        return {"type": "Totp"}
    phones = 1 + int(rng.random() * 2)
    return {
        "type": "Phone",
        "phone_numbers": [
            {
                "mfa_phone_number_suffix": f"{int(rng.random() * 10_000):04d}",
                "mfa_phone_id": draw_uuid(rng),
            }
            for _ in range(phones)
        ],
    }
