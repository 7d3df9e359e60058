"""fakesnow's server, for what dlt sends: `snowflake_server.py PORT`, run by the Python of .venv-fakesnow.

It rewrites the spellings of dlt's that fakesnow does not parse, copies JSON Lines, which fakesnow does not by name of
column, and removes files from the stages of tables, which it does not at all. Imports nothing of ours: that
environment has none of it.
"""

import asyncio
import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import fakesnow.copy_into as copying
import fakesnow.cursor
import fakesnow.server
import uvicorn
from fakesnow.transforms.stage import LOCAL_BUCKET_PATH

one_at_a_time = asyncio.Lock()
copy_into, inserts = copying.copy_into, copying._inserts


class JsonLines:
    """An INSERT of JSON Lines by the names of the columns, as COPY with MATCH_BY_COLUMN_NAME does."""

    def __init__(self, table, url: str, columns: list[tuple[str, str]]) -> None:
        self.table, self.url, self.columns = table, url, columns

    def sql(self, dialect: str) -> str:
        values = [
            f"nullif(j -> '{name.lower()}', 'null')" if kind == "JSON" else f"(j ->> '{name.lower()}')::{kind}"
            for name, kind in self.columns
        ]
        names = ", ".join(f'"{name}"' for name, _ in self.columns)
        rows = f"read_ndjson_objects('{self.url}') AS r(j)"
        return f"INSERT INTO {self.table.sql(dialect=dialect)} ({names}) SELECT {', '.join(values)} FROM {rows}"


def copy_json_too(duck_conn, database, schema, expr, *args, **kwargs):
    def with_json(expr, params, urls, parquet_info=None):
        named = params.match_by_column_name != copying.MatchByColumnName.NONE
        if not (named and isinstance(params.file_format, copying.ReadJSON)):
            return inserts(expr, params, urls, parquet_info)
        table = copying._extract_table(expr.this)
        columns = copying._describe_table(table, duck_conn, database, table.db or schema)
        return [JsonLines(expr.this, url, columns) for url in urls]

    copying._inserts = with_json  # the server runs one statement at a time
    return copy_into(duck_conn, database, schema, expr, *args, **kwargs)


fakesnow.cursor.copy_into = copy_json_too


def rewritten(sql: str) -> str:
    head = sql.lstrip()[:9].upper()
    if head.startswith("PUT "):
        sql = re.sub(r"'(@[^']*)'", lambda m: _stage(m[1]), sql, count=1)
        return sql.replace(", AUTO_COMPRESS", " AUTO_COMPRESS")
    if head == "COPY INTO":
        sql = re.sub(r"FROM\s+'(@[^']*)'", lambda m: "FROM " + _stage(m[1]), sql, count=1)
        sql = re.sub(r"MATCH_BY_COLUMN_NAME\s*=\s*'(\w+)'", r"MATCH_BY_COLUMN_NAME = \1", sql)
        return re.sub(r"FILE_FORMAT\s*=\s*\(([^)]*)\)", lambda m: f"FILE_FORMAT = ({_format(m[1])})", sql)
    if head.startswith("REMOVE"):
        return "LIST " + _table_stage(sql)[0]  # an error if there is no such table
    return sql


def _table_stage(sql: str) -> tuple[str, list[Path]]:
    """Return the stage of a table that a statement names, and what is in the path that follows."""
    stage, schema, table, path = re.search(r"(@\"(\w+)\"\.\"(%\w+)\")([^']*)'", sql).groups()
    return stage, list(Path(LOCAL_BUCKET_PATH).glob(f"*/{schema}/{table}{_stage(path)}"))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _stage(name: str) -> str:
    """`@"S"."%T"/"1795.1"/f.gz` without the quotes in its path."""
    stage, slash, path = name.partition("/")
    return stage + slash + path.replace('"', "")


def _format(options: str) -> str:
    kind = re.search(r"TYPE\s*=\s*'?(\w+)'?", options)[1].upper()
    return f"TYPE = '{kind}'" if kind in ("JSON", "PARQUET") else options.replace(",", " ")


async def app(scope, receive, send) -> None:
    """Answer one request; a script is run statement by statement, and the last one's answer is the script's."""
    if scope["type"] != "http" or not scope["path"].startswith("/queries/v1/query-request"):
        await fakesnow.server.app(scope, receive, send)
        return
    body = await _body(receive)
    packed = body[:2] == b"\x1f\x8b"
    request = json.loads(gzip.decompress(body) if packed else body)
    script = request.get("sqlText", "")
    is_script = "MULTI_STATEMENT_COUNT" in (request.get("parameters") or {})
    async with one_at_a_time:  # its DuckDB refuses a second call instead of letting it wait
        for statement in script.split(";\n") if is_script else [script]:
            sent = await _answer(scope, {**request, "sqlText": rewritten(statement)}, packed)
            if b'"success":false' in b"".join(message.get("body", b"") for message in sent).replace(b" ", b""):
                break
            if statement.startswith("REMOVE"):
                _remove(_table_stage(statement)[1])
    for message in sent:
        await send(message)


async def _answer(scope, request, packed: bool) -> list[dict]:
    body = json.dumps(request).encode()
    body = gzip.compress(body) if packed else body
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    messages, sent = [{"type": "http.request", "body": body, "more_body": False}], []

    async def replay():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def keep(message) -> None:
        sent.append(message)

    scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
    await fakesnow.server.app(scope, replay, keep)
    return sent


async def _body(receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
