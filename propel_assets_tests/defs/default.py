"""The environment of definitions that are built without options."""

from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.environment import Environment

DEFAULT = Environment(PropelAuthConfig(), "")
API = DEFAULT.api_spec.key
