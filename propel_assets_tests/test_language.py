"""The texts and names of the project use standard terms: a term that was replaced does not return."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("propel_assets", "docs", "deploy", "examples", "sources", "benchmarks", ".claude", ".ci")
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".sql", ".toml", ".html", ".sh", ""}

# Each pattern with what replaces it.
REPLACED = {
    r"\bnobody\b|\bnobody's\b": "no user, no row, no process",
    r"\bwhoever\b|\bwhom\b": "the caller, users that, the process that",
    r"\bsomebody\b|\bsomebody's\b": "a user, another process",
    r"\banew\b": "again, from the start; full_refresh",
    r"\bstands? (once|twice|there|beside|still|in|for itself)\b|\bmay stand\b": "exists, is unique, is duplicated",
    r"\b(is|are|was|were|be|been) told\b|\bnot told\b": "receives, is reported, logs",
    r"\basked (again|for)\b": "retried, requested",
    r"\bgood rows\b": "the previous data",
    r"\bbooks?\b": "audit tables",
    r"\bBOOKS?\b|SCAN_LOG|CHECK_LOG|BOOK_NAMES": "AUDIT_TABLES",
    r"\bleave_a_map\b|\bmap of the pipeline\b": "sync_local_pipeline",
    r"\bmemory_of\b|\brecall\b": "ResumeState",
    r"\bwith_little_memory\b|\b_give_memory_back\b": "limited_memory, release_memory",
    r"\bScanReport\b": "ScanResult",
    r"\bPatience\b|\bgo_on\b|\b_who_holds\b": "LockTimeout, wait_for_lock, lock_owner",
    r"\bwork_for\b|\bno_dlt_telemetry\b|\bconnected\(settings": "removed; disable_dlt_telemetry; require_credentials",
    r"\bmisfits?\b|\bsurprises\b|\bstrays?\b": "type mismatches, unexpected fields",
    r"\blets? go\b|\blet go\b": "releases",
    r"\bcatalogue\b": "catalog",
    r"\brooms\b": "packages",
}
PATTERNS = {re.compile(pattern): term for pattern, term in REPLACED.items()}
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts and "target" not in path.parts
)
FILES += [*ROOT.glob("*.md"), ROOT / "Makefile"]
RENAME_TABLE = re.compile(r"^\| before \| now \|\n(?:\|.*\n)+", re.MULTILINE)
"""A table of the changelog with old names."""


def found_in(text: str) -> list[str]:
    """Return a sentence for each term in ``text`` that was replaced."""
    return [
        f"line {number}: {match.group()!r}: use {term}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, term in PATTERNS.items()
        for match in pattern.finditer(line)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_uses_standard_terms(path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":
        text = RENAME_TABLE.sub(lambda table: "\n" * table.group().count("\n"), text)
    assert found_in(text) == []


def test_the_changelog_has_tables_with_old_names() -> None:
    assert RENAME_TABLE.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    ["Nobody is missed, and nobody is lost.".lower(), "the books", "a ScanReport", "it stands twice", "was told"],
)
def test_a_term_that_was_replaced_is_found(text) -> None:
    assert found_in(text)


@pytest.mark.parametrize("text", ["a bookkeeping entry", "the report has memory for two", "room for all tables"])
def test_words_with_a_right_use_are_allowed(text) -> None:
    assert found_in(text) == []
