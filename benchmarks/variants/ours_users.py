"""This project, users alone: the dlt source asked for one table, through the project's own pipeline.

`propel-assets load user_query` loads org_membership with it, because one reading gives both. `python ours_users.py`
"""

from propel_assets.settings import load_settings, require_credentials
from propel_assets.source import propel_auth_source
from propel_assets.warehouse.pipeline import build_pipeline, formats, loading, working_folder

if __name__ == "__main__":
    settings = require_credentials(load_settings())
    with working_folder() as folder:
        pipeline = build_pipeline(settings, folder)
        with loading(settings, pipeline, print):
            pipeline.run(
                propel_auth_source(tables=["user_query"], settings=settings),
                **formats(settings),
            )
