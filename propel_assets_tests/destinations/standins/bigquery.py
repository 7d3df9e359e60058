"""A stand-in for BigQuery: local-bigquery's server, in an environment of its own, which needs Python 3.13."""

import contextlib
import tempfile
from pathlib import Path

from propel_assets_tests.destinations.standins import StandIn
from propel_assets_tests.destinations.standins.google import PROJECT, Accounts
from propel_assets_tests.processes import ROOT, free_port, running

PYTHON = ROOT / ".venv-bigquery/bin/python"  # made by `make test-destinations`


class BigQuery(StandIn):
    def start(self):
        self.accounts = self.enter_context(Accounts())
        data = self.enter_context(tempfile.TemporaryDirectory(prefix="bigquery-"))
        port, grpc = free_port(), free_port()
        server = Path(__file__).with_name("bigquery_server.py")
        self.url = f"http://127.0.0.1:{port}"
        where = ["--host", "127.0.0.1", "--port", str(port), "--grpc-port", str(grpc), "--data-dir", data]
        self.enter_context(running([PYTHON, "-P", server, "serve", *where, "--project", PROJECT], port))

    def place(self, folder: Path) -> dict[str, str]:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        with contextlib.closing(
            bigquery.Client(PROJECT, AnonymousCredentials(), client_options={"api_endpoint": self.url})
        ) as client:
            for dataset in ("propel_auth_data", "propel_auth_data_staging"):
                client.delete_dataset(dataset, delete_contents=True, not_found_ok=True)
        return {
            "PROPELAUTH_DESTINATION": "bigquery",
            "BIGQUERY_EMULATOR_HOST": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.accounts.key_file(folder)),
            "DESTINATION__BIGQUERY__RETRY_DEADLINE": "10",
            "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",  # the server refuses compressed uploads
        }
