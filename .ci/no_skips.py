"""Fail if a JUnit report names a skipped test, or no test at all: in CI everything must run."""

import sys
from xml.etree import ElementTree

for report in sys.argv[1:]:
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 (our own pytest wrote it)
    skipped = [case for case in cases if case.find("skipped[@type='pytest.skip']") is not None]
    for case in skipped:
        print(f"skipped: {case.get('classname')}::{case.get('name')}")
    if skipped or not cases:
        sys.exit(f"{len(skipped)} of {len(cases)} tests were skipped; in CI all must run")
