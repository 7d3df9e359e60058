"""Warehouses that load from a bucket: their stand-ins read it from the one of S3."""

from pathlib import Path

from propel_assets_tests.destinations.standins import StandIn
from propel_assets_tests.destinations.standins.buckets import S3
from propel_assets_tests.destinations.standins.databricks import S3 as S3_OF_DATABRICKS
from propel_assets_tests.destinations.standins.databricks import Databricks
from propel_assets_tests.destinations.standins.redshift import Redshift


class RedshiftFromS3(StandIn):
    def start(self):
        self.bucket = self.enter_context(S3())
        self.warehouse = self.enter_context(Redshift())
        self.warehouse.s3 = self.bucket.url

    def place(self, folder: Path) -> dict[str, str]:
        return {**self.bucket.place(folder), "PROPELAUTH_STAGING": "filesystem", **self.warehouse.place(folder)}


class DatabricksFromS3(StandIn):
    def start(self):
        self.bucket = self.enter_context(S3())

    def place(self, folder: Path) -> dict[str, str]:
        return {
            **self.bucket.place(folder),
            **Databricks().place(folder),
            "PROPELAUTH_STAGING": "filesystem",
            # By its credentials dlt would ask Amazon for others, that last an hour.
            "DESTINATION__DATABRICKS__IS_STAGING_EXTERNAL_LOCATION": "true",
            S3_OF_DATABRICKS: self.bucket.url,
        }
