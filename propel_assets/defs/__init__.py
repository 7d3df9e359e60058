"""Tables to assets, checks, schedules and sensors. The only package that imports Dagster, entry points aside."""
