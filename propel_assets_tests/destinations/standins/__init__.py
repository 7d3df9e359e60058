"""What stands for each warehouse on a machine without internet: real engines where there are any, else stand-ins.

Each class is a context manager that runs it, with one method: `place(folder)`, the environment of a fresh place there.
"""

import contextlib


class StandIn(contextlib.ExitStack):
    """What runs while the block lasts: what `start` enters."""

    def __enter__(self):
        super().__enter__()
        self.start()
        return self

    def start(self) -> None:
        """Start what is needed; by default nothing."""
