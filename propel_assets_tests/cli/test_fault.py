"""`propel-assets fault` against a running sandbox, and what the documentation says about the faults."""

import json
import re
import shlex
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner, Result

from propel_assets.cli import sandbox as module
from propel_assets.cli.main import main
from propel_assets.sandbox.switches import LIMITS, SWITCHES, Fault
from propel_assets_tests.processes import ROOT, free_port


def fault(*words: str) -> Result:
    return CliRunner().invoke(main, ["fault", *words])


def test_a_fault_is_turned_on_shown_and_turned_off_in_a_running_sandbox(small, run_cli) -> None:
    ran = run_cli("fault", "scim_off", "server_error=503,path=/api,requests=3", "--url", small.url)
    assert (ran.returncode, ran.stdout) == (0, "scim_off=403\nserver_error=503,path=/api,requests=3\n")
    on = small.faults.describe()
    assert (on["scim_off"]["value"], on["server_error"]["requests"]) == (403, 3)
    assert fault("--url", f"{small.url}/").stdout == ran.stdout
    assert fault("scim_off=false", "--url", small.url).stdout == "server_error=503,path=/api,requests=3\n"
    assert fault("--clear", "server_error", "--url", small.url).stdout == "No fault is on.\n"
    small.faults.set("latency_ms", 1)
    small.faults.set("wrong_json", None)
    assert fault("--clear", "--url", small.url).stdout == "No fault is on.\n"
    assert small.faults.describe() == {}


def test_the_sandbox_is_named_with_the_command_that_turns_the_faults_off(small) -> None:
    on = fault("scim_off", "latency_ms=1", "--url", small.url).stderr.splitlines()
    assert on == [
        f"Sandbox: {small.url}",
        f"To turn them off: propel-assets fault --clear scim_off latency_ms --url {small.url}",
    ]
    one = fault("orgs_off", "--url", small.url).stderr.splitlines()[-1]  # the faults that were on before stay on
    assert one == f"To turn it off: propel-assets fault --clear orgs_off --url {small.url}"
    shown = fault("--url", small.url).stderr.splitlines()[-1]
    assert set(shown.split()) >= {"scim_off", "latency_ms", "orgs_off"}
    assert fault(*shlex.split(one.partition("propel-assets fault ")[2])).exit_code == 0
    assert set(small.faults.describe()) == {"scim_off", "latency_ms"}
    assert fault(*shlex.split(on[1].partition("propel-assets fault ")[2])).stderr == f"Sandbox: {small.url}\n"
    assert small.faults.describe() == {}


def test_the_default_sandbox_is_named_without_an_option(monkeypatch) -> None:
    fault_of_latency = {"latency_ms": asdict(Fault(50))}
    monkeypatch.setattr(module, "_request", lambda *_: fault_of_latency)
    ran = fault("latency_ms=50")
    assert ran.stderr.splitlines() == [
        "Sandbox: http://127.0.0.1:8400",
        "To turn it off: propel-assets fault --clear latency_ms",
    ]


def test_what_is_shown_can_be_given_again(small) -> None:
    options = ['wrong_json={"users": null},share=0.5,after=2', 'missing_field=["users.email", "orgs.name"]']
    shown = fault(*options, "retry_after=date", "--url", small.url).stdout
    on = small.faults.describe()
    assert fault("--clear", "--url", small.url).exit_code == 0
    assert fault(*shown.splitlines(), "--url", small.url).stdout == shown
    assert small.faults.describe() == on


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["scim_of"], "No fault is named 'scim_of'. Did you mean 'scim_off'?"),
        (["--clear", "scim_of"], "No fault is named 'scim_of'. Did you mean 'scim_off'?"),
        (["unknown_field=org"], "Did you mean 'orgs'?"),
        (["scim_off=1"], "Fault scim_off: 1 is not allowed. Allowed: a whole number from 400 to 599; true: 403."),
        (["reset,request=1"], "Fault reset: no limit is named 'request'. Limits: path, after, requests, share."),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_changes_nothing(words, sentence, small) -> None:
    ran = (
        fault("latency_ms=1", *words, "--url", small.url)
        if words[0] != "--clear"
        else fault(*words, "--url", small.url)
    )
    assert ran.exit_code == 2
    assert sentence in ran.output
    assert small.faults.describe() == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_without_a_sandbox_the_command_ends_with_what_to_do(host, run_cli) -> None:
    url = f"http://{host}:{free_port()}"
    ran = run_cli("fault", "scim_off", "--url", url)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"Error: No sandbox responds at {url}: ")
    assert "Start one with `propel-assets sandbox` or `propel-assets dev`" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("body", [b"<html>", b'{"status": "ok"}', b"[1]"])
def test_a_server_that_is_no_sandbox_receives_nothing_that_changes_it(body) -> None:
    methods = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            methods.append(self.command)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for words in (["scim_off"], ["--clear"]):
            ran = fault(*words, "--url", url)
            assert ran.exit_code == 1
            assert f"{url} is not a sandbox with faults" in ran.output
        server.shutdown()
    assert methods == ["GET", "GET"]


def test_every_fault_and_limit_is_listed_and_documented() -> None:
    listed = re.sub(r"\s+", " ", fault("--list").output)
    page = (ROOT / "docs" / "sandbox.md").read_text()
    for name, switch in (SWITCHES | LIMITS).items():
        assert f" {name} {switch.effect}. Allowed: {switch.allowed}." in listed
        assert f"| `{name}` | {switch.effect} | {switch.allowed} |\n" in page
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*SWITCHES, *LIMITS}


def test_the_faults_that_the_documentation_sets_by_json_are_allowed(small) -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text()
    bodies = re.findall(r"-d '(\{.*?\})'", page)
    assert bodies
    for body in bodies:
        small.faults.update(json.loads(body))
