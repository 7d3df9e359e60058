"""Whatever people configure: it works, or one sentence says why not. Fuzzed by hypothesis."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import dagster as dg
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from propel_assets.definitions import defs
from propel_assets.defs.assets import CONFIGURABLE
from propel_assets.defs.delivery import NotDelivered, targets
from propel_assets.errors import SettingsError
from propel_assets.settings import Settings

SECRET = "canary-path-of-a-webhook"
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3),
    max_leaves=6,
)
likely = st.fixed_dictionaries({}, optional={"recent": values, "values": values, "per_key": values})
JOB = defs.resolve_job_def("__ASSET_JOB")


@pytest.mark.parametrize("scan", CONFIGURABLE)
@settings(max_examples=25, deadline=None)
@given(config=values | likely)
@example(config={"recent": "yes"})
@example(config={"values": [1]})
def test_any_run_config_is_taken_or_refused_by_dagster(scan, config) -> None:
    config_class, options_of = CONFIGURABLE[scan]
    try:
        taken = dg.validate_run_config(JOB, {"ops": {f"load_{scan}": {"config": config}}})
        options_of(config_class(**taken["ops"][f"load_{scan}"]["config"]))
    except dg.DagsterInvalidConfigError as error:
        as_meant = f"load_{scan}" in str(error)
    except pydantic.ValidationError as error:  # a null, which Dagster lets through
        as_meant = {problem["input"] for problem in error.errors()} == {None}
    else:
        as_meant = True
    assert as_meant


class _Slack(BaseHTTPRequestHandler):
    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def slack() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Slack) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{SECRET}"
        server.shutdown()
        thread.join()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.integers(200, 599),
    path=texts,
    smtp=texts | texts.map(f"smtp://user:{SECRET}@127.0.0.1:1/{{}}".format),
    address=texts | st.just("data@example.com"),
    title=texts,
    text=texts,
)
@example(200, "", f"smtp://{SECRET}@127.0.0.1:1", "data@example.com", "a\nb", "\r\n.\r\n")
def test_any_target_delivers_or_is_refused_and_quotes_no_secret(
    slack, status, path, smtp, address, title, text
) -> None:
    _Slack.status = status
    asked = [
        Settings(alert_webhook=slack + path),
        Settings(alert_webhook=f"https://[{SECRET}{path}"),
        Settings(
            alert_smtp=smtp if "@" in smtp else f"smtp://127.0.0.1:1/{smtp}", alert_from=address, alert_to=address
        ),
    ]
    said = []
    for known in asked:
        try:
            found = targets(known)
        except SettingsError as error:
            said.append(str(error))
            continue
        for deliver in found.values():
            try:
                deliver(title, text)
            except NotDelivered as error:
                said.append(str(error))
    assert SECRET not in " ".join(said)
    assert all(sentence.endswith(".") for sentence in said)
