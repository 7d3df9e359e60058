"""`propel-assets`, killed at a point of dlt's loading: `cli.py METHOD TIMES WORD...`; TIMES 0 is never.

METHOD is one of `Load` or of `RunnableLoadJob`; the process dies when it is called for the TIMESth time.
"""

import os
import signal
import sys

from dlt.common.destination.client import RunnableLoadJob
from dlt.load.load import Load

from propel_assets.cli.main import main
from propel_assets_tests.destinations.standins import databricks


def die_at(method: str, times: int) -> None:
    owner = Load if hasattr(Load, method) else RunnableLoadJob
    original, calls = getattr(owner, method), []

    def counted(*args, **kwargs):
        calls.append(method)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, method, counted)


if __name__ == "__main__":
    if int(sys.argv[2]):
        die_at(sys.argv[1], int(sys.argv[2]))
    if databricks.FOLDER in os.environ:
        databricks.install()
    main(sys.argv[3:])
