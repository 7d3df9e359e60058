"""Marts and findings to charts, the HTML report and alert delivery. No Dagster."""
