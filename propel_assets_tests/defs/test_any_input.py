"""Whatever people configure: it works, or one sentence says why not. Fuzzed by hypothesis."""

from collections.abc import Iterator

import dagster as dg
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from propel_assets.catalog import SCANS, options_of
from propel_assets.definitions import defs
from propel_assets.defs.assets import CONFIGS
from propel_assets.reporting.delivery import Message, NotDelivered, targets
from propel_assets.settings import AlertSettings
from propel_assets_tests.cases import cases
from propel_assets_tests.reporting.servers import SECRET, Webhook, running_webhook

PASSWORD = "canary-of-a-mail-server"
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3),
    max_leaves=6,
)
likely = st.fixed_dictionaries({}, optional={"recent": values, "values": values, "per_key": values})
JOB = defs.resolve_job_def("__ASSET_JOB")


@pytest.mark.parametrize("scan", [scan for scan in SCANS if options_of(scan)])
@settings(max_examples=cases(25))
@given(config=values | likely)
@example(config={"recent": "yes"})
@example(config={"values": [1]})
def test_any_run_config_is_taken_or_refused_by_dagster(scan, config) -> None:
    config_class, read_options = CONFIGS[options_of(scan)[0]]
    try:
        taken = dg.validate_run_config(JOB, {"ops": {f"propel_auth_load_{scan}": {"config": config}}})
        read_options(scan, config_class(**taken["ops"][f"propel_auth_load_{scan}"]["config"]))
    except dg.DagsterInvalidConfigError as error:
        as_meant = f"load_{scan}" in str(error)
    except pydantic.ValidationError as error:  # a null, which Dagster lets through
        as_meant = {problem["input"] for problem in error.errors()} == {None}
    else:
        as_meant = True
    assert as_meant


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with running_webhook() as server:
        yield server


@settings(max_examples=cases(200))
@given(
    status=st.integers(200, 599),
    path=texts,
    smtp=texts | texts.map(f"smtp://user:{PASSWORD}@127.0.0.1:1/{{}}".format),
    address=texts | st.just("data@example.com"),
    title=texts,
    text=texts,
)
@example(200, "", f"smtp://{PASSWORD}@127.0.0.1:1", "data@example.com", "a\nb", "\r\n.\r\n")
def test_any_target_delivers_or_is_refused_and_quotes_no_secret(
    webhook, status, path, smtp, address, title, text
) -> None:
    webhook.status = status
    asked = [
        AlertSettings(webhook=webhook.url + path),
        AlertSettings(webhook=f"https://[{SECRET}{path}"),
        AlertSettings(smtp=smtp if "@" in smtp else f"smtp://127.0.0.1:1/{smtp}", sender=address, recipients=address),
    ]
    said = []
    for known in asked:
        usable, unusable = targets(known)
        said += unusable.values()
        for target in usable.values():
            try:
                target.send(Message(title, text))
            except NotDelivered as error:
                said.append(str(error))
    assert not any(secret in " ".join(said) for secret in (SECRET, PASSWORD))
    assert all(sentence.endswith(".") for sentence in said)
