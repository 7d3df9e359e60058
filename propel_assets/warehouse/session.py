"""A load session: one pipeline for all loads of a command or a run into one target."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import dlt
from dlt.common.pipeline import LoadInfo

from propel_assets.privacy.policy import Policy
from propel_assets.settings import Target
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import build_pipeline, location_of, sync_local_pipeline
from propel_assets.warehouse.query import Warehouse, connect, explain_refusal


class LoadSession:
    """The pipeline of a target. Use `open_session`. One thread at a time may use a session."""

    def __init__(self, target: Target, folder: str, log: Log) -> None:
        """Work in ``folder``. The pipeline is built when it is first used."""
        self.target, self._log = target, log
        self._folder = folder
        self._pipeline: dlt.Pipeline | None = None
        self.has_loaded = False

    @contextlib.contextmanager
    def pipeline(self, log: Log) -> Iterator[dlt.Pipeline]:
        """Yield the pipeline for one load, which logs to ``log``. After an error the next load gets a new one."""
        self._log = log
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is None:
            pipeline = build_pipeline(self.target, self._folder, lambda message: self._log(message))
        else:
            pipeline.activate()  # another pipeline of this process can have been used since
        try:
            yield pipeline
        except BaseException:
            shutil.rmtree(pipeline.working_dir, ignore_errors=True)
            raise
        self._pipeline = pipeline

    @contextlib.contextmanager
    def warehouse(self, policy: Policy) -> Iterator[Warehouse]:
        """Connect to the warehouse with the pipeline of the session.

        Raises:
            WarehouseError: the destination refused the connection.
        """
        with contextlib.ExitStack() as stack:
            pipeline = stack.enter_context(self.pipeline(self._log))
            with explain_refusal(self.target):
                warehouse = stack.enter_context(connect(pipeline, self.target, policy))
            yield warehouse

    @property
    def location(self) -> str:
        """Return the destination and the dataset, without credentials; for DuckDB also the file."""
        with self.pipeline(self._log) as pipeline:
            return location_of(self.target, pipeline)

    def finish(self, info: LoadInfo) -> None:
        """Note a load that is complete, and remove its files: they contain personal data."""
        self.has_loaded = True
        for package in info.load_packages:
            shutil.rmtree(Path(package.package_path), ignore_errors=True)

    def close(self) -> None:
        """Restore the local pipeline state, if a load is complete."""
        if self.has_loaded:
            sync_local_pipeline(self.target, self._log, self._pipeline)


@contextlib.contextmanager
def open_session(target: Target, log: Log = lambda _: None) -> Iterator[LoadSession]:
    """Open a session for loads into ``target``."""
    with working_folder() as folder:
        session = LoadSession(target, folder, log)
        try:
            yield session
        finally:
            session.close()
