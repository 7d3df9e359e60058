"""Jobs of dlt's loader, as the destinations here use them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlt.common.destination.client import FollowupJobRequest, RunnableLoadJob

from propel_assets.warehouse.dlt_compat import LoadJobInfo


class SqlFile(FollowupJobRequest):
    """A file of SQL that dlt runs after other jobs: one statement on each line."""

    def __init__(self, after: LoadJobInfo, statements: Sequence[str]) -> None:
        """Write the statements to a file of the load package that the job ``after`` is in."""
        name = after.job_file_info._replace(file_format="sql", retry_count=0).file_name()
        # dlt's own place for such files is the temporary folder, where they would outlive a killed process.
        self._path = Path(after.file_path).parents[1] / name
        self._path.write_text("\n".join(statements), encoding="utf-8")

    def new_file_path(self) -> str:
        """Return the path of the file."""
        return str(self._path)


class ClientJob(RunnableLoadJob):
    """A job that uses its client. The client sets ``client`` in `prepare_load_job_execution`.

    dlt runs a job with another client than the one that created it.
    """

    client: Any

    @property
    def path(self) -> Path:
        """Return the file of the job. dlt moves it before the job runs."""
        metrics = self.metrics()
        if metrics is None:
            raise AssertionError("dlt reports no file for a job")
        return Path(metrics.file_path)


class SetsClient:
    """Mixin for a dlt client that runs `ClientJob`s."""

    def prepare_load_job_execution(self, job: RunnableLoadJob) -> None:
        """Set the client of the job."""
        super().prepare_load_job_execution(job)  # type: ignore[misc]
        if isinstance(job, ClientJob):
            job.client = self
