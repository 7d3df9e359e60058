"""A stand-in for Redshift: PostgreSQL, with Redshift's names in it and a proxy before it.

The proxy rewrites what PostgreSQL does not parse. psycopg2 sends nothing but simple queries.
"""

import asyncio
import gzip
import re
import struct
import threading
from pathlib import Path

from propel_assets_tests.destinations.standins.buckets import read_object
from propel_assets_tests.destinations.standins.postgres import Postgres

SPELLINGS = [
    (re.compile(rb"\bvarchar\s*\(\s*max\s*\)", re.IGNORECASE), b"varchar(65535)"),
    # On Redshift a TRUNCATE commits. PostgreSQL would hide that; so no load may use one here.
    (re.compile(rb"\bTRUNCATE TABLE\b", re.IGNORECASE), b"TRUNCATE COMMITS ON REDSHIFT"),
]
COPY = re.compile(rb"COPY\s+(\S+)\s+FROM 's3://(\S+?)'\s+FORMAT AS JSON 'auto'(.*)", re.IGNORECASE | re.DOTALL)
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
NAMES = r"""
CREATE DOMAIN public.super AS text;
CREATE DOMAIN public.varbinary AS bytea;
CREATE VIEW public.svv_redshift_schemas AS
    SELECT catalog_name AS database_name, schema_name FROM information_schema.schemata;
CREATE FUNCTION public.json_parse(t text) RETURNS public.super LANGUAGE sql IMMUTABLE
    AS 'SELECT (t::jsonb)::text::public.super';
CREATE FUNCTION public.from_hex(t text) RETURNS public.varbinary LANGUAGE sql IMMUTABLE
    AS 'SELECT decode(t, ''hex'')::public.varbinary';
"""


class Redshift(Postgres):
    s3 = ""  # the URL of a stand-in for S3 that COPY reads

    def __enter__(self):
        super().__enter__()
        self.loop = asyncio.new_event_loop()
        self.proxy = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = self.proxy.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def __exit__(self, *args):
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        super().__exit__(*args)

    async def _stop(self) -> None:
        self.proxy.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def place(self, _folder: Path) -> dict[str, str]:
        name = self.database()
        self.ask(name, NAMES)
        # In a literal of Redshift a backslash escapes.
        self.ask(name, f"ALTER DATABASE {name} SET standard_conforming_strings = off")
        return {
            "PROPELAUTH_DESTINATION": "redshift",
            "DESTINATION__REDSHIFT__CREDENTIALS": f"postgresql://postgres:x@127.0.0.1:{self.port}/{name}",
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(str(self.folder / ".s.PGSQL.5432"))
        await asyncio.gather(_queries(reader, to_server, self.s3), _pass(from_server, writer), return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def _queries(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, s3: str) -> None:
    """Pass messages on, queries rewritten; the first ones have no type."""
    try:
        while await _untyped(reader, writer) in (SSL_REQUEST, GSS_REQUEST):
            pass
        while True:
            kind = await reader.readexactly(1)
            length = struct.unpack("!I", await reader.readexactly(4))[0]
            body = await reader.readexactly(length - 4)
            if kind == b"Q":
                for spelling, ours in SPELLINGS:
                    body = spelling.sub(ours, body)
                if copy := COPY.search(body):
                    body = await _insert(*copy.groups(), s3)
            writer.write(kind + struct.pack("!I", len(body) + 4) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _insert(table: bytes, path: bytes, options: bytes, s3: str) -> bytes:
    """Return the INSERT that a COPY of JSON lines amounts to."""
    lines = await asyncio.to_thread(read_object, s3, path.decode())
    lines = gzip.decompress(lines) if b"GZIP" in options else lines
    rows = b"[" + b",".join(lines.splitlines()) + b"]"
    literal = rows.replace(b"\\", b"\\\\").replace(b"'", b"''")
    return b"INSERT INTO %s SELECT * FROM json_populate_recordset(NULL::%s, '%s')\0" % (table, table, literal)


async def _untyped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    length = struct.unpack("!I", await reader.readexactly(4))[0]
    body = await reader.readexactly(length - 4)
    writer.write(struct.pack("!I", length) + body)
    await writer.drain()
    return struct.unpack("!I", body[:4])[0]
