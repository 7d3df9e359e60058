"""Rows to tables, and what is promised of them. dlt and SQL; no Dagster."""
