"""The page of an access review, from a review without a warehouse."""

import re
from datetime import UTC, date, datetime, timedelta

from propel_assets.reporting.access_review.files import PAGE, render_files
from propel_assets.reporting.access_review.model import AccessReview, ApiKey, Scans

NIGHT = datetime(2026, 9, 30, 4, 15, tzinfo=UTC)
OLD = NIGHT - timedelta(days=20)


def test_the_page_has_the_reason_of_the_last_scan_and_the_load_of_the_api_keys() -> None:
    reason = "12 members of isolated orgs are missing"
    review = AccessReview(
        as_of=date(2026, 9, 30),
        since=date(2026, 7, 2),
        observed_at=NIGHT,
        is_preliminary=False,
        tenant="https://auth.example.com",
        environment="",
        admin_roles=("Owner",),
        orgs=[],
        user_changes=[],
        api_keys=[ApiKey("key", "user", "user", "", OLD, None, None, None, ())],
        api_keys_at=OLD,
        usage=None,
        exceptions=[],
        scans=[Scans("user_query", 0, 1, 0, NIGHT, "counted", reason, 60, 72)],
        loads=1,
        longest_gap=None,
        changes_known=None,
        notes=[],
    )
    page = render_files(review)[PAGE].decode()
    assert f"counted: {reason}" in page
    assert page.count("2026-09-10 04:15") >= 2, "on the cover and above the keys, which are older than the review"
    assert "under the assumptions" in page
    printed_on_one_page = re.search(
        r'<div class="result">\n<h3>Result</h3>.*?<h3>Sign-off</h3>.*?</div>', page, re.DOTALL
    )
    assert printed_on_one_page, "the signature must not be alone on a page"
    assert ".result { break-inside: avoid; }" in page
