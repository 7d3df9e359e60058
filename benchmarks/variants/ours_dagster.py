"""This project, through a Dagster run in this process: two assets and their checks, logs left as they are."""

import dagster as dg

from propel_assets.defs.build import build_definitions

TABLES = dg.AssetSelection.assets(["propel_auth", "user_query"], ["propel_auth", "org_membership"])

if __name__ == "__main__":
    jobs = dg.Definitions(jobs=[dg.define_asset_job("bench", TABLES)])
    job = dg.Definitions.merge(build_definitions(), jobs).resolve_job_def("bench")
    with dg.DagsterInstance.ephemeral() as instance:
        raise SystemExit(not job.execute_in_process(instance=instance).success)
