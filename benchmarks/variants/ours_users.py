"""This project, users alone: the dlt source with one table, through the project's own pipeline.

`propel-assets load user_query` loads org_membership too, because one scan reads both. `python ours_users.py`
"""

from propel_assets.settings import load_settings, require_credentials
from propel_assets.source import propel_auth_source
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.pipeline import build_pipeline, load_formats, load_lock

if __name__ == "__main__":
    settings = require_credentials(load_settings())
    with working_folder() as folder:
        pipeline = build_pipeline(settings.target, folder)
        with load_lock(settings.target, pipeline, print):
            pipeline.run(
                propel_auth_source(tables=["user_query"], settings=settings),
                **load_formats(settings.target),
            )
