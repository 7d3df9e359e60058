"""Tables to history and marts: the dbt project, its runner, its manifest and its column lineage. No Dagster."""
