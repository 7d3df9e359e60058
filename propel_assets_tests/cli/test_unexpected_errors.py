"""An unexpected error reaches no output with its text: it may quote rows."""

from click.testing import CliRunner

from propel_assets.cli import main as module


def test_an_unexpected_error_is_one_line_without_its_text(monkeypatch) -> None:
    def fail(*_args, **_options) -> None:
        int("Alice Q. Smith, +1 555 0100")

    monkeypatch.setattr(module.main.commands["privacy"], "callback", fail)
    result = CliRunner().invoke(module.main, ["privacy"])
    assert result.exit_code == 1
    assert "Unexpected ValueError at test_unexpected_errors.py:" in result.output
    assert "Alice" not in result.output
    assert CliRunner().invoke(module.main, ["--version"]).exit_code == 0
