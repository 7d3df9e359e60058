"""The charts of the marts: the question that each answers, and the sentence that sums it up."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import AUTH_EVENT, ORG_MEMBERSHIP, ORG_QUERY, USER_QUERY, Table
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.reporting.drawing import Chart, bar_chart, grid_chart, seat_chart, time_chart

Query = Callable[[str], Sequence[Sequence[Any]]]
WEEKS = 52
COHORTS = 12  # months
AFTER = (1, 2, 4, 8, 12, 24, 36, 48)  # weeks after the sign-up
FULLEST = 12  # orgs
ROLES = 8


def signups(query: Query, schema: str) -> Chart | None:
    """Return sign-ups per week up to the last load of users, our count and PropelAuth's own figure.

    A week has a figure of PropelAuth only if each of its days has one, except for the last week.
    """
    mart = f"{schema}.fct_signups_daily"
    [(loaded,)] = query(f"SELECT max(CASE WHEN is_complete THEN day + 1 WHEN signups > 0 THEN day END) FROM {mart}")  # noqa: S608
    if loaded is None:
        return None
    last = _monday(loaded)
    rows = query(
        "SELECT date_trunc('week', day), sum(signups), sum(provider_signups), count(*) - count(provider_signups), "  # noqa: S608
        f"sum(CASE WHEN provider_signups IS NOT NULL THEN signups END) FROM {mart} "
        f"WHERE day BETWEEN DATE '{last - timedelta(weeks=WEEKS - 1)}' AND DATE '{_day(loaded)}' GROUP BY 1 ORDER BY 1"
    )
    weeks: dict[date, list[Any]] = {_day(week): figures for week, *figures in rows}
    first = min(weeks)
    ours = dict.fromkeys((first + timedelta(weeks=n) for n in range((last - first).days // 7 + 1)), 0)
    ours |= {week: int(count) for week, (count, *_) in weeks.items()}
    theirs = {
        week: int(provider)
        for week, (_, provider, unknown_days, _) in weeks.items()
        if provider is not None and (week == last or not unknown_days)
    }
    summary = f"{_of(sum(ours.values()), 'sign-up')} in {_of(len(ours), 'week')}; "
    summary += "the last week was not over at the last load."
    if theirs:
        provider_total, our_total = (int(sum(figures[n] or 0 for figures in weeks.values())) for n in (1, 3))
        summary += (
            f" On the days with a figure of PropelAuth, it counts {provider_total:,} and the loads {our_total:,}: "
        )
        summary += "users deleted before the first load are in its figure only."
    return time_chart(
        "Sign-ups per week",
        summary,
        (f"{sum([*ours.values()][-5:-1]):,}", "sign-ups in the four weeks before this one"),
        {"Sign-ups": ours, **({"As PropelAuth counts": theirs} if theirs else {})},
        period="Week of",
        bars=True,
    )


def active_users(query: Query, schema: str) -> Chart | None:
    """Return active users per week that is over, or per day before there are 2: PropelAuth's figure and ours.

    The day of the last load is not over, so it has a figure only if it is the day of the first load, too. The summary
    is of the figure that goes on longest, of PropelAuth's if both do.
    """
    rows, period, is_over = _engagement(query, schema)
    starts = sorted(_day(row[0]) for row in rows)[-WEEKS:]
    series: dict[str, dict[date, int]] = {}
    for number, name in enumerate(("As PropelAuth counts", "As seen by loads: at least"), 1):
        counts = {_day(row[0]): int(row[number]) for row in rows if row[number] is not None}
        if shown := {start: counts[start] for start in starts if start in counts}:
            series[name] = shown
    if not series:
        return None
    source, best = max(series.items(), key=lambda item: max(item[1]))
    counted = source[0].lower() + source[1:]
    title, last = f"Active users per {period}", max(best)
    before = best.get(last - timedelta(weeks=1) if period == "week" else last - timedelta(days=1))
    change = f", {(best[last] - before) / before:+.0%} on the {period} before" if before else ""
    open_day = "" if is_over else ", which was not over"
    return time_chart(
        title if len(series) > 1 else f"{title}, {counted}",  # one series has no legend
        f"{_of(best[last], 'user')} active in the {period} of {last}{change or open_day}, {counted}.",
        (
            f"{best[last]:,}",
            f"users active {'in the last full week' if period == 'week' else f'that day{open_day}'}, {counted}",
        ),
        series,
        period=f"{period.capitalize()} of",
    )


def _engagement(query: Query, schema: str) -> tuple[list[Sequence[Any]], str, bool]:
    """Return rows with a start, PropelAuth's figure and ours; `week` or `day`; and whether these periods are over."""
    ours, provider = "active_users", "CASE WHEN provider_is_complete THEN provider_active_users END"
    sql = f"SELECT week_start, {provider}, {ours} FROM {schema}.fct_engagement_weekly WHERE is_complete"  # noqa: S608
    weeks = [row for row in query(sql) if row[1:] != (None, None)]
    if len(weeks) > 1:
        return weeks, "week", True
    ours_if_over = f"CASE WHEN is_complete THEN {ours} END"
    rows = query(f"SELECT day, {provider}, {ours_if_over}, {ours} FROM {schema}.fct_engagement_daily")  # noqa: S608
    if days := [row[:3] for row in rows if row[1:3] != (None, None)]:
        return days, "day", True
    return [(day, None, users) for day, *_, users in rows if users is not None], "day", False


def cohorts(query: Query, schema: str) -> Chart | None:
    """Return the share of each month's sign-ups that was active so many weeks later or after.

    A week belongs to the month of its Monday. Only weeks at least 8 weeks ago count: users who return late would make
    younger cohorts look worse.
    """
    observed = "CASE WHEN weeks_observed >= 8 THEN {} ELSE 0 END"  # users whose return could be seen for 8 weeks
    rows = query(
        "SELECT date_trunc('month', cohort_week), weeks_after, sum(cohort_users), "  # noqa: S608 - our names
        f"sum({observed.format('cohort_users')}), sum({observed.format('active_at_or_after_users')}) "
        f"FROM {schema}.fct_retention_weekly GROUP BY 1, 2"
    )
    found = [(_day(month), int(after), *map(int, users)) for month, after, *users in rows]
    started = {month: users for month, after, users, _, _ in found if after == 0}
    stayed = {(month, after): users for month, after, _, reached, users in found if reached == started.get(month)}
    months = sorted(month for month, after in stayed if after == AFTER[0])[-COHORTS:]
    if not months:
        return None
    share = {(m, a): stayed[m, a] / started[m] for m in months for a in AFTER if (m, a) in stayed}
    label = {month: f"{month:%b %Y}" for month in months}
    fourth = [month for month in months if (month, 4) in share]
    kept = sum(stayed[m, 4] for m in fourth) / sum(started[m] for m in fourth) if fourth else None
    retained = (
        f" Of the users who signed up early enough, {kept:.0%} were active at week four or later."
        if kept is not None
        else ""
    )
    total = _of(sum(started[m] for m in months), "sign-up")
    return grid_chart(
        "Retention: weeks after sign-up",
        f"{total} in weeks that begin in {_of(len(months), 'month')}, at least 8 weeks ago.{retained}",
        None if kept is None else (f"{kept:.0%}", "of new users active at week four or later"),
        ("Weeks that begin in", "Users", *map(str, AFTER)),
        [
            (label[m], f"{started[m]:,}", *(_percent(share[m, a]) if (m, a) in share else "" for a in AFTER))
            for m in months
        ],
        [(label[month], after, value) for (month, after), value in share.items()],
    )


def seats(query: Query, schema: str) -> Chart | None:
    """Return members beside seats of the fullest orgs, or of the largest where no org has a cap.

    Idle members are not known if the privacy policy drops the time of the activity.
    """
    sql = "SELECT name, members, max_users, idle_members_30d, is_over_cap, org_id FROM "
    orgs = query(f"{sql}{_last_day(schema, 'fct_seat_usage')}")
    if not orgs:
        return None
    capped = [org for org in orgs if org[2]]
    fullest = sorted(capped or orgs, key=lambda org: (-org[1] / (org[2] or 1), -org[1], org[5]))[:FULLEST]
    names = [without_personal_data(str(org[0])) for org in fullest]
    twice = Counter(names)
    names = [f"{n} ({org[5][:4]})" if twice[n] > 1 else n for n, org in zip(names, fullest, strict=True)]
    members, caps = sum(int(org[1]) for org in capped), sum(int(org[2]) for org in capped)
    over, total, is_known = sum(bool(o[4]) for o in orgs), sum(o[1] for o in orgs), all(o[3] is not None for o in orgs)
    used = f"{members:,} of {_of(caps, 'seat')} used in the {_of(len(capped), 'org')} with a cap; {over:,} over it. "
    idle = (
        f"{sum(int(o[3]) for o in orgs):,} of all {total:,} members"
        if is_known
        else "It is not known which members are"
    )
    summary = (used if capped else "No org has a cap. ") + f"{idle} idle for 30 days."
    return seat_chart(
        f"Seats used: the {len(fullest)} {'fullest' if capped else 'largest'} orgs",
        summary,
        (f"{members / caps:.0%}", "of capped seats used") if caps else None,
        [
            (name, int(org[1]), int(org[2]) if org[2] else None, f"{org[3]:,}" if is_known else "not known")
            for name, org in zip(names, fullest, strict=True)
        ],
        ("Idle for 30 days",),
    )


def roles(query: Query, schema: str) -> Chart | None:
    """Return the members with each role, over all orgs. A member with several roles counts under each."""
    counts: Counter[str] = Counter()
    sql = "SELECT role, members FROM "
    for role, members in query(f"{sql}{_last_day(schema, 'fct_role_mix')} AND members > 0"):
        counts[without_personal_data(str(role))] += int(members)
    owners = _owners(query, schema)
    if not counts:
        return None
    total = sum(counts.values())
    shown = counts.most_common(ROLES + (len(counts) == ROLES + 1))
    if rest := total - sum(n for _, n in shown):
        shown.append((f"{len(counts) - ROLES} more", rest))
    return bar_chart(
        "Roles",
        f"{_of(total, 'assignment')} of {_of(len(counts), 'role')}.{owners}",
        None,
        ("Role", "Members", "Share"),
        [(role, n, f"{n:,}", _percent(n / total)) for role, n in shown],
    )


def _owners(query: Query, schema: str) -> str:
    """Return how many orgs have one owner or none; empty before the op that builds `fct_security_posture` has run."""
    sql = "SELECT has_one_owner, has_no_owner FROM "
    try:
        orgs = query(f"{sql}{_last_day(schema, 'fct_security_posture')} AND members > 0")
    except DatabaseUndefinedRelation:
        return ""
    one, none = sum(bool(org[0]) for org in orgs), sum(bool(org[1]) for org in orgs)
    return f" {_of(one, 'org')} with one owner only, {none:,} without an owner."


def mfa(query: Query, schema: str) -> Chart | None:
    """Return orgs by how many of their users have a second factor; not known if the privacy policy drops the values."""
    bands = {
        "none": 0.0,
        "up to 25 %": 0.25,
        "up to 50 %": 0.5,
        "up to 75 %": 0.75,
        "up to 99 %": 0.9999999,
        "all": 1.0,
    }
    title, heads = "MFA: orgs by the share of users with a second factor", ("Users with a second factor", "Orgs")
    counts: Counter[str] = Counter()
    sql = "SELECT enabled_members, mfa_adoption FROM "
    orgs = query(f"{sql}{_last_day(schema, 'fct_security_posture')}")
    for enabled, share_of_org in orgs:
        if enabled and share_of_org is not None:
            counts[next(band for band, most in bands.items() if float(share_of_org) <= most)] += 1
    days = query(
        f"SELECT day, enabled_users, users_with_mfa, mfa_adoption FROM {schema}.fct_user_security_daily ORDER BY day"  # noqa: S608
    )
    if days and days[-1][2] is None:
        why = "The share is not known: the last load has no values of `enabled` or `mfa_enabled`."
        return bar_chart(title, why, None, heads, [("not known", len(orgs), f"{len(orgs):,}")])
    if not days or not days[-1][1]:
        return None
    enabled, with_mfa = days[-1][1:3]
    first_day, *_, first_share = days[0]
    since = f"; it was {float(first_share):.0%} on {_day(first_day)}" if len(days) > 1 and first_share else ""
    share = _percent(with_mfa / enabled)
    left_out = len(orgs) - counts.total()
    without = f" Orgs without enabled members are not shown: {left_out:,}." if left_out else ""
    return bar_chart(
        title,
        f"{with_mfa:,} of {_of(enabled, 'enabled user')} ({share}) with a second factor{since}.{without}",
        (share, "of enabled users with a second factor"),
        heads,
        [(band, counts[band], f"{counts[band]:,}") for band in bands],
    )


def missed_changes(query: Query, schema: str) -> Chart | None:
    """Return the changes between full loads that had no webhook, by event type."""
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    grades = waiting = 0
    sql = f"SELECT event_type, changes, missed, is_settled FROM {schema}.audit_event_grades"  # noqa: S608 - our names
    for event_type, changes, without, is_settled in query(sql):
        counts[event_type] += int(changes) if is_settled else 0
        missed[event_type] += int(without) if is_settled else 0
        grades += 1
        waiting += not is_settled
    if not counts:
        return None
    shown = sorted(counts, key=lambda name: (-missed[name], name))
    total, lost = counts.total(), missed.total()
    share = f" ({lost / total:.1%})" if total else ""
    summary = f"{lost:,} of {_of(total, 'change')} between full loads had no webhook{share}."
    if waiting:
        summary += f" {_of(waiting, 'comparison')} not final yet: not counted."
    if waiting == grades:
        summary = f"No comparison is final yet: events can still arrive for {_of(waiting, 'comparison')}."
    return bar_chart(
        "Changes that webhooks missed",
        summary,
        (f"{lost:,}", "changes that webhooks missed") if waiting < grades else None,
        ("Event", "Missed", "Changes"),
        [(name, missed[name], f"{missed[name]:,}", f"of {counts[name]:,}") for name in shown],
    )


CHARTS: dict[str, tuple[str, Table, Callable[[Query, str], Chart | None]]] = {
    "fct_signups_daily": ("Sign-ups", USER_QUERY, signups),
    "fct_engagement_weekly": ("Active users", USER_QUERY, active_users),
    "fct_retention_weekly": ("Retention", USER_QUERY, cohorts),
    "fct_seat_usage": ("Seats used", ORG_QUERY, seats),
    "fct_role_mix": ("Roles", ORG_MEMBERSHIP, roles),
    "fct_security_posture": ("MFA", USER_QUERY, mfa),
    "audit_event_grades": ("Changes that webhooks missed", AUTH_EVENT, missed_changes),
}
"""By mart: the title of its chart where the chart cannot be drawn, the raw table that it needs, and its function."""


def _last_day(schema: str, mart: str) -> str:
    return f"{schema}.{mart} WHERE day = (SELECT max(day) FROM {schema}.{mart})"  # noqa: S608 - our names


def _day(value: Any) -> date:
    """Return a day that some databases give as a time."""
    return date.fromisoformat(str(value)[:10])


def _monday(value: Any) -> date:
    day = _day(value)
    return day - timedelta(days=day.weekday())


def _percent(share: float) -> str:
    """Return a share in percent; one that is above 0 is not shown as 0%."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
