"""Destinations that need no server."""

from pathlib import Path

from propel_assets_tests.destinations.standins import StandIn


class DuckDb(StandIn):
    def place(self, folder: Path) -> dict[str, str]:
        return {
            "PROPELAUTH_DESTINATION": "duckdb",
            "DESTINATION__DUCKDB__CREDENTIALS": str(folder / "propel_auth_pipeline.duckdb"),
        }


class NamedDuckDb(StandIn):
    """A destination that has a name of its own in dlt's configuration."""

    def place(self, folder: Path) -> dict[str, str]:
        return {
            "PROPELAUTH_DESTINATION": "warehouse",
            "DESTINATION__WAREHOUSE__DESTINATION_TYPE": "duckdb",
            "DESTINATION__WAREHOUSE__CREDENTIALS": str(folder / "named.duckdb"),
        }


class DeltaFiles(StandIn):
    def place(self, folder: Path) -> dict[str, str]:
        return {"PROPELAUTH_DESTINATION": "filesystem", "DESTINATION__FILESYSTEM__BUCKET_URL": str(folder / "lake")}


class PlainFiles(DeltaFiles):
    def place(self, folder: Path) -> dict[str, str]:
        return {**super().place(folder), "PROPELAUTH_TABLE_FORMAT": "parquet"}


class DuckLake(StandIn):
    def start(self):
        import duckdb_extensions

        for extension in ("ducklake", "sqlite"):
            duckdb_extensions.import_extension(extension)

    def place(self, folder: Path) -> dict[str, str]:
        return {
            "PROPELAUTH_DESTINATION": "ducklake",
            "DESTINATION__DUCKLAKE__CREDENTIALS__DUCKLAKE_NAME": "lake",
            "DESTINATION__DUCKLAKE__CREDENTIALS__CATALOG": f"sqlite:///{folder}/catalog.sqlite",
            "DESTINATION__DUCKLAKE__CREDENTIALS__STORAGE": str(folder / "lake"),
        }
