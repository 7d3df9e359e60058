"""The charts of the marts: what each asks, the sentence that sums it up, its numbers as a table, and its drawing.

Drawn by Vega-Lite (vl-convert, of the extra `marts`) as SVG. The page of `propel-assets report` gives the colours as
CSS variables, so that one drawing is right in light and dark; the pictures in the Dagster UI have their own, on white.
"""

import base64
import importlib.util
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from typing import Any

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.privacy.redaction import without_personal_data

Query = Callable[[str], Sequence[Sequence[Any]]]
WEEKS = 52
COHORTS = 12  # months
AFTER = (1, 2, 4, 8, 12, 24, 36, 48)  # weeks after the sign-up
FULLEST = 12  # orgs
ROLES = 8
WIDE, NARROW = 560, 310  # px, axes and their labels included
WHOLE = {"format": ",d", "tickMinStep": 1}
LETTER = 8  # px of a letter of an axis, at most, over some of them
THEMED = {"text": "currentColor", "grid": "var(--line)", "first": "var(--first)", "second": "var(--second)"}
ON_WHITE = {"text": "#334155", "grid": "#e2e8f0", "first": "#2563eb", "second": "#c2410c"}


@dataclass(frozen=True)
class Chart:
    """One chart: ``headline`` is a number and what it counts, ``rows`` are the numbers drawn, under ``head``.

    ``draw`` returns Vega-Lite's layers and data for a theme and a width.
    """

    title: str
    summary: str
    headline: tuple[str, str] | None
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    draw: Callable[[Mapping[str, str], int], dict[str, Any]]

    def svg(self, width: int, theme: Mapping[str, str] = THEMED) -> str:
        """Return the drawing, ``width`` px wide."""
        import vl_convert

        axis = {"labelColor": theme["text"], "gridColor": theme["grid"], "domain": False, "ticks": False}
        legend = {
            "labelColor": theme["text"],
            "orient": "top",
            "title": None,
            "labelLimit": width,
            "direction": "vertical",
        }
        spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": width,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "padding": 2,
            "background": "white" if theme is ON_WHITE else None,
            "config": {
                "aria": False,  # the page says in words what there is to see
                "font": "system-ui, sans-serif",
                "view": {"stroke": None},
                "axis": {**axis, "labelFontSize": 12, "labelPadding": 6, "title": None},
                "legend": {**legend, "labelFontSize": 12, "symbolSize": 120, "symbolOpacity": 1},
                "text": {"fontSize": 12, "color": theme["text"]},
            },
            **self.draw(theme, width),
        }
        drawing = vl_convert.vegalite_to_svg(spec)
        return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{self.title}. {self.summary}")}" ', 1)

    def markdown(self) -> str:
        """Return the summary and the drawing for a page that is not ours."""
        picture = base64.b64encode(self.svg(WIDE, ON_WHITE).encode()).decode()
        return f"{self.summary}\n\n![{self.title}](data:image/svg+xml;base64,{picture})"


def signups(query: Query, schema: str) -> Chart | None:
    """Return sign-ups per week, ours and PropelAuth's own figure."""
    ours: Counter[date] = Counter()
    theirs: Counter[date] = Counter()
    for day, count, provider in query(f"SELECT day, signups, provider_signups FROM {schema}.fct_signups_daily"):  # noqa: S608
        ours[_monday(day)] += int(count)
        if provider is not None:
            theirs[_monday(day)] += int(provider)
    if not ours:
        return None
    weeks = [max(ours) - timedelta(weeks=n) for n in reversed(range(min(WEEKS, _weeks(ours))))]
    series = {"Sign-ups": ours, **({"As PropelAuth counts": theirs} if theirs else {})}
    data = [{"day": str(w), "value": counts[w], "series": name} for name, counts in series.items() for w in weeks]
    counted = sum(theirs[w] for w in weeks)
    told = (
        f" PropelAuth counts {counted:,}: users deleted before the first load are in its figure only." if theirs else ""
    )
    recent = sum(ours[week] for week in weeks[-5:-1])
    summary = (
        f"{_of(sum(ours[w] for w in weeks), 'sign-up')} in {_of(len(weeks), 'week')}; the last week is not over.{told}"
    )
    return Chart(
        "Sign-ups per week",
        summary,
        (f"{recent:,}", "sign-ups in the four weeks before this one"),
        ("Week of", *series),
        [(str(week), *(f"{counts[week]:,}" for counts in series.values())) for week in reversed(weeks)],
        lambda theme, width: {
            "height": 200,
            "data": {"values": data},
            "encoding": _over_time(theme, width, list(series)),
            "layer": [
                {
                    "mark": {"type": "bar", "width": max(1, (width - 60) // len(weeks) - 2)},
                    "transform": [{"filter": "datum.series == 'Sign-ups'"}],
                },
                {
                    "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step"},
                    "transform": [{"filter": "datum.series != 'Sign-ups'"}],
                },
            ],
        },
    )


def active_users(query: Query, schema: str) -> Chart | None:
    """Return active users per week that is over, or per day before there are 2: PropelAuth's figure and ours."""
    names = {"provider": "As PropelAuth counts", "ours": "As seen by loads: at least"}
    columns = "active_users, provider_active_users, is_complete"
    rows = query(f"SELECT week_start, {columns} FROM {schema}.fct_engagement_weekly WHERE is_complete")  # noqa: S608
    cadence = "Weekly" if sum(row[1] is not None or row[2] is not None for row in rows) > 1 else "Daily"
    if cadence == "Daily":
        rows = query(f"SELECT day, {columns} FROM {schema}.fct_engagement_daily")  # noqa: S608 - our names
    found: dict[str, dict[date, int]] = defaultdict(dict)
    for start, ours, provider, _ in rows:
        for name, users in (("provider", provider), ("ours", ours)):
            if users is not None:
                found[name][_day(start)] = int(users)
    if not found:
        return None
    series = {names[source]: found[source] for source in names if source in found}
    starts = sorted({start for counts in series.values() for start in counts})[-WEEKS:]
    data = [
        {"day": str(start), "value": counts[start], "series": name}
        for name, counts in series.items()
        for start in starts
        if start in counts
    ]
    best = next(iter(series.values()))
    last, period = max(best), "week" if cadence == "Weekly" else "day"
    before = best.get(last - timedelta(weeks=1) if cadence == "Weekly" else last - timedelta(days=1))
    change = f", {(best[last] - before) / before:+.0%} on the {period} before" if before else ""
    summary = f"{_of(best[last], 'user')} active in the {period} of {last}{change}."
    return Chart(
        f"Active users per {period}",
        summary,
        (f"{best[last]:,}", f"users active in the last full {period}" if period == "week" else "users active that day"),
        (f"{period.capitalize()} of", *series),
        [(str(s), *(f"{c[s]:,}" if s in c else "" for c in series.values())) for s in reversed(starts)],
        lambda theme, width: {
            "height": 200,
            "data": {"values": data},
            "encoding": {
                **_over_time(theme, width, list(series)),
                "strokeDash": {
                    "field": "series",
                    "scale": {"domain": list(series), "range": [[1, 0], [5, 3]][: len(series)]},
                },
            },
            "mark": {"type": "line", "strokeWidth": 2, "point": len(starts) < 3},
        },
    )


def cohorts(query: Query, schema: str) -> Chart | None:
    """Return the share of each month's sign-ups that was active so many weeks later or after.

    Only weeks at least 8 weeks ago count: users who return late would make younger cohorts look worse.
    """
    sql = "SELECT cohort_week, weeks_after, cohort_users, active_at_or_after_users, weeks_observed >= 8 FROM "
    started: Counter[date] = Counter()
    reached: Counter[tuple[date, int]] = Counter()  # users whose return could be seen for 8 weeks
    stayed: Counter[tuple[date, int]] = Counter()
    for week, after, users, active, is_observed in query(f"{sql}{schema}.fct_retention_weekly"):
        month = _day(week).replace(day=1)
        started[month] += int(users) if after == 0 else 0
        reached[month, after] += int(users) if is_observed else 0
        stayed[month, after] += int(active) if is_observed else 0
    months = sorted(month for month in started if reached[month, AFTER[0]] == started[month])[-COHORTS:]
    if not months:
        return None
    share = {
        (month, after): stayed[month, after] / started[month]
        for month in months
        for after in AFTER
        if reached[month, after] == started[month]
    }
    label = {month: f"{month:%b %Y}" for month in months}
    data = [
        {"month": label[m], "after": after, "share": value, "text": f"{value:.0%}"}
        for (m, after), value in share.items()
    ]
    fourth = [(stayed[m, 4], started[m]) for m in months if (m, 4) in share]
    kept = sum(s for s, _ in fourth) / sum(n for _, n in fourth) if fourth else None
    told = f" Of those who could, {kept:.0%} were active four weeks later or after." if kept is not None else ""
    summary = f"{_of(sum(started[m] for m in months), 'sign-up')} in {_of(len(months), 'month')} of sign-up.{told}"
    return Chart(
        "Retention: weeks after sign-up",
        summary,
        None if kept is None else (f"{kept:.0%}", "of new users still active after four weeks"),
        ("Month of sign-up", "Users", *map(str, AFTER)),
        [
            (label[m], f"{started[m]:,}", *(f"{share[m, a]:.0%}" if (m, a) in share else "" for a in AFTER))
            for m in months
        ],
        lambda theme, _width: {
            "height": {"step": 24},
            "data": {"values": data},
            "encoding": {
                "x": {"field": "after", "type": "ordinal", "axis": {"orient": "top", "labelAngle": 0}},
                "y": {"field": "month", "type": "ordinal", "sort": None, "axis": _names(list(label.values()))},
            },
            "layer": [
                {
                    "mark": {"type": "rect", "color": theme["first"], "cornerRadius": 2},
                    # Paler than the numbers on it.
                    "encoding": {
                        "opacity": {
                            "field": "share",
                            "type": "quantitative",
                            "scale": {"domain": [0, 1], "range": [0.04, 0.6]},
                            "legend": None,
                        }
                    },
                },
                {"mark": {"type": "text", "fontSize": 11}, "encoding": {"text": {"field": "text"}}},
            ],
        },
    )


def seats(query: Query, schema: str) -> Chart | None:
    """Return members beside seats of the fullest orgs, or of the largest where no org has a cap."""
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
    over, idle, everybody = sum(bool(org[4]) for org in orgs), sum(int(org[3]) for org in orgs), sum(o[1] for o in orgs)
    told = f"{members:,} of {_of(caps, 'seat')} used in the {_of(len(capped), 'org')} with a cap; {over:,} over it. "
    summary = (told if capped else "No org has a cap. ") + f"{idle:,} of all {everybody:,} members idle for 30 days."
    data = [
        {"org": name, "members": int(org[1]), "seats": org[2] and int(org[2])}
        for name, org in zip(names, fullest, strict=True)
    ]
    return Chart(
        f"Seats used: the {len(fullest)} {'fullest' if capped else 'largest'} orgs",
        summary,
        (f"{members / caps:.0%}", "of capped seats used") if caps else None,
        ("Org", "Members", "Seats", "Idle for 30 days"),
        [
            (name, f"{org[1]:,}", f"{org[2]:,}" if org[2] else "no cap", f"{org[3]:,}")
            for name, org in zip(names, fullest, strict=True)
        ],
        lambda theme, width: {
            "height": {"step": 24},
            "data": {"values": data},
            "encoding": {
                "y": {"field": "org", "type": "nominal", "sort": None, "axis": _names(names, width)},
            },
            "layer": [
                _bars(theme, "members", width),
                *(
                    [
                        {
                            "mark": {"type": "tick", "thickness": 3, "height": 18},
                            "encoding": {
                                "x": {"field": "seats", "type": "quantitative"},
                                "color": _colors(theme, ["Members", "Seats"], "Seats"),
                            },
                        }
                    ]
                    if capped
                    else []
                ),
            ],
        },
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
    shown = counts.most_common(ROLES)
    if rest := total - sum(n for _, n in shown):
        shown.append((f"{len(counts) - ROLES} more", rest))
    summary = f"{_of(total, 'assignment')} of {_of(len(counts), 'role')}.{owners}"
    data = [{"role": role, "members": n, "text": f"{n:,} ({n / total:.0%})"} for role, n in shown]
    return Chart(
        "Roles",
        summary,
        None,
        ("Role", "Members", "Share"),
        [(role, f"{n:,}", f"{n / total:.0%}") for role, n in shown],
        lambda theme, width: _labelled_bars(theme, width, data, "role", "members"),
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
    """Return orgs by how many of their users have a second factor."""
    bands = {
        "none": 0.0,
        "up to 25 %": 0.25,
        "up to 50 %": 0.5,
        "up to 75 %": 0.75,
        "up to 99 %": 0.9999999,
        "all": 1.0,
    }
    counts: Counter[str] = Counter()
    sql = "SELECT enabled_members, mfa_adoption FROM "
    for enabled, share_of_org in query(f"{sql}{_last_day(schema, 'fct_security_posture')}"):
        if enabled:
            counts[next(band for band, most in bands.items() if float(share_of_org) <= most)] += 1
    days = query(
        f"SELECT day, enabled_users, users_with_mfa, mfa_adoption FROM {schema}.fct_user_security_daily ORDER BY day"  # noqa: S608
    )
    if not days or not days[-1][1]:
        return None
    enabled, with_mfa = days[-1][1:3]
    first_day, *_, first_share = days[0]
    since = f"; it was {float(first_share):.0%} on {_day(first_day)}" if len(days) > 1 and first_share else ""
    share = with_mfa / enabled
    summary = f"{with_mfa:,} of {_of(enabled, 'enabled user')} ({share:.0%}) with a second factor{since}."
    data = [{"band": band, "orgs": counts[band], "text": f"{counts[band]:,}"} for band in bands]
    return Chart(
        "MFA: orgs by the share of users with a second factor",
        summary,
        (f"{share:.0%}", "of enabled users with a second factor"),
        ("Users with a second factor", "Orgs"),
        [(band, f"{counts[band]:,}") for band in bands],
        lambda theme, width: _labelled_bars(theme, width, data, "band", "orgs"),
    )


def missed_changes(query: Query, schema: str) -> Chart | None:
    """Return the changes between full loads that had no webhook, by event type."""
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for event_type, changes, without in query(f"SELECT event_type, changes, missed FROM {schema}.audit_event_grades"):  # noqa: S608
        counts[event_type] += int(changes)
        missed[event_type] += int(without)
    if not counts:
        return None
    shown = sorted(counts, key=lambda name: (-missed[name], name))
    total, lost = counts.total(), missed.total()
    share = f" ({lost / total:.1%})" if total else ""
    data = [{"event": n, "missed": missed[n], "text": f"{missed[n]:,} of {counts[n]:,}"} for n in shown]
    return Chart(
        "Changes that webhooks missed",
        f"{lost:,} of {_of(total, 'change')} between full loads had no webhook{share}.",
        (f"{lost:,}", "changes that webhooks missed"),
        ("Event", "Changes", "Missed"),
        [(name, f"{counts[name]:,}", f"{missed[name]:,}") for name in shown],
        lambda theme, width: _labelled_bars(theme, width, data, "event", "missed"),
    )


def can_draw() -> bool:
    """Return whether the package that draws charts is installed: it is part of the extra `marts`."""
    return importlib.util.find_spec("vl_convert") is not None


CHARTS: dict[str, Callable[[Query, str], Chart | None]] = {
    "fct_signups_daily": signups,
    "fct_engagement_weekly": active_users,
    "fct_retention_weekly": cohorts,
    "fct_seat_usage": seats,
    "fct_role_mix": roles,
    "fct_security_posture": mfa,
    "audit_event_grades": missed_changes,
}


def _last_day(schema: str, mart: str) -> str:
    return f"{schema}.{mart} WHERE day = (SELECT max(day) FROM {schema}.{mart})"  # noqa: S608 - our names


def _over_time(theme: Mapping[str, str], width: int, series: list[str]) -> dict[str, Any]:
    axis = {"format": "%b %Y", "tickCount": max(2, width // 90), "grid": False, "labelOverlap": True}
    return {
        "x": {"field": "day", "type": "temporal", "scale": {"type": "utc"}, "axis": axis},
        "y": {"field": "value", "type": "quantitative", "axis": {**WHOLE, "tickCount": 4, "minExtent": 5 * LETTER}},
        "color": _colors(theme, series),
    }


def _colors(theme: Mapping[str, str], series: list[str], constant: str = "") -> dict[str, Any]:
    legend = {} if len(series) > 1 else {"legend": None}
    scale = {"domain": series, "range": [theme["first"], theme["second"]][: len(series)]}
    return {**({"datum": constant} if constant else {"field": "series"}), "type": "nominal", "scale": scale, **legend}


def _bars(theme: Mapping[str, str], field: str, width: int) -> dict[str, Any]:
    axis = {**WHOLE, "tickCount": width // 100}
    return {
        "mark": {"type": "bar", "height": 14, "cornerRadiusEnd": 2},
        "encoding": {
            "x": {"field": field, "type": "quantitative", "axis": axis},
            "color": _colors(theme, ["Members", "Seats"], "Members"),
        },
    }


def _labelled_bars(
    theme: Mapping[str, str], width: int, data: list[dict[str, Any]], name: str, value: str
) -> dict[str, Any]:
    """Return bars, each with its number at its end, and room for it."""
    most = max(row[value] for row in data)
    axis = _names([row[name] for row in data], width)
    room = width - axis["minExtent"]
    return {
        "height": {"step": 28},
        "data": {"values": data},
        "encoding": {
            "x": {
                "field": value,
                "type": "quantitative",
                "axis": None,
                "scale": {"domain": [0, most * room / (room - 90) or 1]},
            },
            "y": {"field": name, "type": "nominal", "sort": None, "axis": axis},
        },
        "layer": [
            {"mark": {"type": "bar", "height": 16, "cornerRadiusEnd": 2, "color": theme["first"]}},
            {"mark": {"type": "text", "align": "left", "dx": 6}, "encoding": {"text": {"field": "text"}}},
        ],
    }


def _names(names: Sequence[str], width: int = WIDE) -> dict[str, Any]:
    """Return an axis of names, as wide as the widest fonts need; a long name is cut at its end."""
    most = (width * 2 // 5) // LETTER
    room = min(most, max(map(len, names))) * LETTER
    cut = f"length(datum.label) > {most} ? slice(datum.label, 0, {most - 1}) + '…' : datum.label"
    return {"labelExpr": cut, "labelLimit": 0, "minExtent": room, "grid": False}


def _day(value: Any) -> date:
    """Return a day that some databases give as a time."""
    return date.fromisoformat(str(value)[:10])


def _monday(value: Any) -> date:
    day = _day(value)
    return day - timedelta(days=day.weekday())


def _weeks(counts: Mapping[date, int]) -> int:
    return (max(counts) - min(counts)).days // 7 + 1


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
