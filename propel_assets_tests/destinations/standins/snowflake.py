"""A stand-in for Snowflake: fakesnow's server, in an environment of its own."""

import uuid
from pathlib import Path

from propel_assets_tests.destinations.standins import StandIn
from propel_assets_tests.processes import ROOT, free_port, running

PYTHON = ROOT / ".venv-fakesnow/bin/python"  # made by `make test-destinations`


class Snowflake(StandIn):
    def start(self):
        self.port = free_port()
        server = Path(__file__).with_name("snowflake_server.py")
        self.enter_context(running([PYTHON, "-P", server, str(self.port)], self.port))

    def place(self, _folder: Path) -> dict[str, str]:
        # Without network_timeout the connector retries an HTTP 500 for more than ten minutes.
        options = f"warehouse=wh&role=r&host=127.0.0.1&port={self.port}&protocol=http&network_timeout=20"
        database = f"test_{uuid.uuid4().hex[:12]}"
        return {
            "PROPELAUTH_DESTINATION": "snowflake",
            "DESTINATION__SNOWFLAKE__CREDENTIALS": f"snowflake://loader:x@fakeacct/{database}?{options}",
        }
