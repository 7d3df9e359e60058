"""local-bigquery's server, run by the Python of .venv-bigquery, with one thing more that BigQuery does.

A load that names no schema has the table's; local-bigquery guesses one from the file. Imports nothing of ours.
"""

from local_bigquery import cli
from local_bigquery.catalog import tables
from local_bigquery.jobs import load, runner


def load_as_the_table_is(cursor, config, upload):
    reference = tables.reference(config.destinationTable)
    if not config.schema_ and not config.autodetect and tables.exists(*reference):
        config = config.replace(schema={"fields": tables.columns(*reference)})
    return load.run(cursor, config, upload)


if __name__ == "__main__":
    runner.HANDLERS["load"] = load_as_the_table_is
    cli.main()
