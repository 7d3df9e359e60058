"""All definitions as text: what other people's code, dashboards and alerts rely on.

    python -m propel_assets_tests.defs.snapshot

writes the file again after an intended change.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from propel_assets.defs.build import build_definitions

FILE = Path(__file__).with_suffix(".txt")
HOW_TO_UPDATE = "If the change is intended: python -m propel_assets_tests.defs.snapshot"


def describe(definitions: dg.Definitions) -> str:
    """Return one line per definition and attribute, sorted."""
    return "\n".join(
        [
            "# Contract of the definitions. Written by `python -m propel_assets_tests.defs.snapshot`; do not edit.",
            *_assets(definitions),
            *_jobs(definitions),
            *_instigators(definitions),
            *_resources(definitions),
            "",
        ]
    )


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    graph = definitions.resolve_asset_graph()
    for spec in sorted(definitions.resolve_all_asset_specs(), key=lambda spec: spec.key):
        op = definitions.get_assets_def(spec.key).node_def
        yield f"\nasset {spec.key.to_user_string()}"
        pool = getattr(op, "pool", None) or "none"
        names = f"group {spec.group_name}, op {op.name}, pool {pool}"
        yield f"  {names}, kinds {_listed(spec.kinds)}, owners {_listed(spec.owners)}"
        yield f"  depends on {_listed(dep.asset_key.to_user_string() for dep in spec.deps)}"
        for key in sorted(graph.get_check_keys_for_assets({spec.key}), key=lambda key: key.name):
            blocks = ", blocking" if graph.get_check_spec(key).blocking else ""
            yield f"  check {key.name}{blocks}"


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in sorted(definitions.get_repository_def().get_all_jobs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            yield f"\njob {job.name}"
            yield from (f"  op {name}" for name in sorted(node.name for node in job.nodes))


def _instigators(definitions: dg.Definitions) -> Iterator[str]:
    repository = definitions.get_repository_def()
    yield ""
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        status, cron = schedule.default_status.value, schedule.cron_schedule
        yield f"schedule {schedule.name}, {status}, {cron} {schedule.execution_timezone}, job {schedule.job_name}"
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        jobs = _listed(job.name for job in sensor.jobs) if sensor.has_jobs else "none"
        yield f"sensor {sensor.name}, {sensor.default_status.value}, jobs {jobs}"


def _resources(definitions: dg.Definitions) -> Iterator[str]:
    yield ""
    for name, resource in sorted((definitions.resources or {}).items()):
        yield f"resource {name}, fields {_listed(type(resource).model_fields)}"


def _listed(names: object) -> str:
    return " ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload]


if __name__ == "__main__":
    FILE.write_text(describe(build_definitions()))
