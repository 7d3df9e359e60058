"""What coding agents are given: skills that name what is there, and an MCP server that answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from propel_assets.warehouse.load import load_scan
from propel_assets_tests.processes import ROOT

SKILLS = sorted((ROOT / ".claude" / "skills").glob("*/SKILL.md"))
SERVER = json.loads((ROOT / ".mcp.json").read_text())["mcpServers"]["dlt"]


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.parent.name)
def test_a_skill_says_when_to_use_it_and_ends_in_tests(skill) -> None:
    _, head, body = skill.read_text().split("---\n", 2)
    assert re.search(r"^name: (.+)$", head, re.MULTILINE)[1] == skill.parent.name  # type: ignore[index]
    assert re.search(r"^description: .{40,}$", head, re.MULTILINE)
    assert "-m pytest propel_assets_tests/" in body
    assert f".claude/skills/{skill.parent.name}" in (ROOT / "AGENTS.md").read_text()


class Mcp:
    """The server of `.mcp.json`, spoken to in its own protocol: a line of JSON each way."""

    def __init__(self) -> None:
        program = Path(sys.executable).with_name(Path(SERVER["command"]).name)
        pipes: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        self.process = subprocess.Popen(
            [program, *SERVER["args"]], env={**os.environ, **SERVER["env"]}, text=True, **pipes
        )
        self.asked = 0

    def send(self, method: str, **more: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", "method": method, **more}) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        self.send(method, id=self.asked, params=params)
        for line in self.process.stdout or ():
            if (answer := json.loads(line)).get("id") == self.asked:
                return answer["result"]
        raise AssertionError(self.process.communicate()[1])


@pytest.fixture
def mcp(settings, tmp_path):
    load_scan("users", settings)
    server = Mcp()
    yield server
    server.process.communicate(timeout=60)  # it ends when its input is closed


def test_dlts_mcp_server_reads_our_tables_and_has_nothing_that_reads_or_writes_secrets(mcp) -> None:
    me = {"name": "test", "version": "1"}
    assert mcp.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=me)["serverInfo"]
    mcp.send("notifications/initialized")
    tools = {tool["name"] for tool in mcp.ask("tools/list")["tools"]}
    assert {"list_tables", "get_table_schema", "execute_sql_query", "get_row_counts"} <= tools
    assert not [name for name in tools if "secret" in name or "toolkit" in name]
    query = {"pipeline_name": "propel_auth_pipeline", "sql_select_query": "SELECT count(*) AS users FROM user_query"}
    answer = mcp.ask("tools/call", name="execute_sql_query", arguments=query)
    assert "300" in answer["content"][0]["text"]
