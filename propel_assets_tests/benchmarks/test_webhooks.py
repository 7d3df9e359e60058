"""What the benchmark of the webhook receiver prints, and how it is documented. It is not run, and nothing is timed."""

import re
import runpy

import pytest

from propel_assets_tests.processes import ROOT

BENCHMARK = ROOT / "benchmarks" / "webhooks.py"


def test_the_outcome_has_what_was_sent_and_stored_and_the_percentiles() -> None:
    outcome = runpy.run_path(str(BENCHMARK))["outcome"]
    ids = {f"msg_{number}" for number in range(100)}
    delays = [number / 1000 for number in reversed(range(1, 101))]
    assert outcome(100, ids, ids, delays) == {
        **{"sent": 100, "accepted": 100, "stored": 100, "accepted_but_lost": 0},
        **{"p50_ms": 50.5, "p99_ms": 100.0},
    }
    assert outcome(100, ids, ids - {"msg_1"}, delays)["accepted_but_lost"] == 1


def test_the_command_and_every_field_are_documented(capsys, monkeypatch) -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    commands = re.findall(r"^    \S*python benchmarks/webhooks\.py (.+)$", page, re.MULTILINE)
    assert commands
    script = runpy.run_path(str(BENCHMARK))
    monkeypatch.setattr("sys.argv", ["webhooks.py", "--help"])
    with pytest.raises(SystemExit):
        script["main"]()
    options = capsys.readouterr().out
    for option in re.findall(r"--\w+", " ".join(commands)):
        assert option in options
    for field in script["outcome"](1, {"a"}, {"a"}, [0.1]):
        assert f"`{field}`" in page
