"""Charts as SVG: of the report, of the assets in Dagster and of the notebook.

Drawn by Vega-Lite (vl-convert, of the extra `marts`), which needs no browser and no network. A chart has its numbers as
a table too. The report gives the colors as CSS variables, so that one drawing fits light and dark; elsewhere the
background is white.
"""

import base64
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Any

Theme = Mapping[str, str]
WIDE, NARROW = 560, 310  # px, axes and their labels included
LETTER = 8  # px: the widest letter of the label of an axis
LABEL = 90  # px to the right of a bar, for its label
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
    draw: Callable[[Theme, int], dict[str, Any]]

    def svg(self, width: int = WIDE, theme: Theme = ON_WHITE) -> str:
        """Return the drawing, ``width`` px wide."""
        import vl_convert

        axis = {"labelColor": theme["text"], "gridColor": theme["grid"], "domain": False, "ticks": False}
        legend = {"labelColor": theme["text"], "orient": "top", "labelLimit": width, "direction": "vertical"}
        spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": width,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "padding": 2,
            "background": "white" if theme is ON_WHITE else None,
            "config": {
                "aria": False,  # the summary is the text alternative
                "font": "system-ui, sans-serif",
                "view": {"stroke": None},
                "axis": {**axis, "labelFontSize": 12, "labelPadding": 6, "title": None},
                "legend": {**legend, "title": None, "labelFontSize": 12, "symbolSize": 120, "symbolOpacity": 1},
                "text": {"fontSize": 12, "color": theme["text"]},
            },
            **self.draw(theme, width),
        }
        drawing = vl_convert.vegalite_to_svg(spec)
        return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{self.title}. {self.summary}")}" ', 1)

    def markdown(self) -> str:
        """Return the summary and the drawing, for Dagster's UI."""
        picture = base64.b64encode(self.svg().encode()).decode()
        return f"{self.summary}\n\n![{self.title}](data:image/svg+xml;base64,{picture})"


def can_draw() -> bool:
    """Return whether the package that draws charts is installed: it is part of the extra `marts`."""
    return importlib.util.find_spec("vl_convert") is not None


def time_chart(
    title: str,
    summary: str,
    headline: tuple[str, str] | None,
    series: Mapping[str, Mapping[date, float]],
    *,
    period: str,
    bars: bool = False,
    percent: bool = False,
) -> Chart:
    """Return a chart of one or two series of numbers per ``period``.

    Args:
        title: the title.
        summary: one sentence.
        headline: a number and what it counts.
        series: by name, the numbers by the first day of their period.
        period: the head of the column of days.
        bars: draw the first series as bars and the second as steps; otherwise both as lines.
        percent: the numbers are shares.
    """
    names, number = list(series), ".0%" if percent else ",d"
    starts = sorted({start for values in series.values() for start in values})
    data = [{"day": str(s), "value": v, "series": name} for name, values in series.items() for s, v in values.items()]

    def draw(theme: Theme, width: int) -> dict[str, Any]:
        days = {"format": "%b %Y", "tickCount": max(2, width // 90), "grid": False, "labelOverlap": True}
        values = {"format": number, "tickCount": 4, "minExtent": 5 * LETTER, **({} if percent else {"tickMinStep": 1})}
        encoding = {
            "x": {"field": "day", "type": "temporal", "scale": {"type": "utc"}, "axis": days},
            "y": {"field": "value", "type": "quantitative", "axis": values},
            "color": _colors(theme, names),
        }
        chart = {"height": 200, "data": {"values": data}, "encoding": encoding}
        if not bars:
            encoding["strokeDash"] = {
                "field": "series",
                "scale": {"domain": names, "range": [[1, 0], [5, 3]][: len(names)]},
                "legend": None if len(names) == 1 else {},
            }
            return {**chart, "mark": {"type": "line", "strokeWidth": 2, "point": len(starts) < 3}}
        bar = {"type": "bar", "width": max(1, (width - 60) // len(starts) - 2)}
        steps = {"type": "line", "strokeWidth": 1.5, "interpolate": "step"}
        is_first = f"datum.series == {names[0]!r}"
        return {
            **chart,
            "layer": [
                {"mark": bar, "transform": [{"filter": is_first}]},
                {"mark": steps, "transform": [{"filter": f"!({is_first})"}]},
            ],
        }

    rows = [(str(s), *(f"{v[s]:{number}}" if s in v else "" for v in series.values())) for s in reversed(starts)]
    return Chart(title, summary, headline, (period, *names), rows, draw)


def bar_chart(
    title: str,
    summary: str,
    headline: tuple[str, str] | None,
    head: tuple[str, ...],
    bars: Sequence[tuple[str, float, *tuple[str, ...]]],
) -> Chart:
    """Return a chart of horizontal bars. ``bars``: name and length of each, and the cells that label it."""
    names = [name for name, *_ in bars]
    labels = [cells[0] + "".join(f" ({cell})" for cell in cells[1:]) for _, _, *cells in bars]
    lengths = [length for _, length, *_ in bars]
    data = [{"name": n, "value": v, "text": t} for n, v, t in zip(names, lengths, labels, strict=True)]

    def draw(theme: Theme, width: int) -> dict[str, Any]:
        axis = _name_axis(names, width)
        inner = width - axis["minExtent"]
        most = max(lengths) * inner / (inner - LABEL) or 1
        return {
            "height": {"step": 28},
            "data": {"values": data},
            "encoding": {
                "x": {"field": "value", "type": "quantitative", "axis": None, "scale": {"domain": [0, most]}},
                "y": {"field": "name", "type": "nominal", "sort": None, "axis": axis},
            },
            "layer": [
                {"mark": {"type": "bar", "height": 16, "cornerRadiusEnd": 2, "color": theme["first"]}},
                {"mark": {"type": "text", "align": "left", "dx": 6}, "encoding": {"text": {"field": "text"}}},
            ],
        }

    return Chart(title, summary, headline, head, [(name, *cells) for name, _, *cells in bars], draw)


def seat_chart(
    title: str,
    summary: str,
    headline: tuple[str, str] | None,
    orgs: Sequence[tuple[str, int, int | None, *tuple[str, ...]]],
    more_heads: tuple[str, ...] = (),
) -> Chart:
    """Return a chart of the members of orgs beside their seats.

    Args:
        title: the title.
        summary: one sentence.
        headline: a number and what it counts.
        orgs: name, members and seats of each, and further cells of the table; None: no limit.
        more_heads: the heads of the further cells.
    """
    names = [name for name, *_ in orgs]
    data = [{"org": name, "members": members, "seats": seats} for name, members, seats, *_ in orgs]
    series = ["Members", "Seats"]

    def draw(theme: Theme, width: int) -> dict[str, Any]:
        axis = {"format": ",d", "tickMinStep": 1, "tickCount": width // 100}

        def layer(field: str, mark: dict[str, Any], name: str) -> dict[str, Any]:
            x = {"field": field, "type": "quantitative", "axis": axis}
            return {"mark": mark, "encoding": {"x": x, "color": _colors(theme, series, name)}}

        layers = [layer("members", {"type": "bar", "height": 14, "cornerRadiusEnd": 2}, "Members")]
        if any(row["seats"] for row in data):
            layers.append(layer("seats", {"type": "tick", "thickness": 3, "height": 18}, "Seats"))
        y = {"field": "org", "type": "nominal", "sort": None, "axis": _name_axis(names, width)}
        return {"height": {"step": 24}, "data": {"values": data}, "encoding": {"y": y}, "layer": layers}

    rows = [(name, f"{members:,}", f"{seats:,}" if seats else "no cap", *more) for name, members, seats, *more in orgs]
    return Chart(title, summary, headline, ("Org", *series, *more_heads), rows, draw)


def grid_chart(
    title: str,
    summary: str,
    headline: tuple[str, str] | None,
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    shares: Sequence[tuple[str, int, float]],
) -> Chart:
    """Return a grid of shares. ``shares``: row, column and share; ``rows``: the same as a table under ``head``."""
    data = [{"row": row, "column": column, "share": s, "text": f"{s:.0%}"} for row, column, s in shares]
    names = [row[0] for row in rows]

    def draw(theme: Theme, _width: int) -> dict[str, Any]:
        opacity = {"domain": [0, 1], "range": [0.04, 0.6]}  # paler than the numbers on it
        return {
            "height": {"step": 24},
            "data": {"values": data},
            "encoding": {
                "x": {"field": "column", "type": "ordinal", "axis": {"orient": "top", "labelAngle": 0}},
                "y": {"field": "row", "type": "ordinal", "sort": None, "axis": _name_axis(names)},
            },
            "layer": [
                {
                    "mark": {"type": "rect", "color": theme["first"], "cornerRadius": 2},
                    "encoding": {
                        "opacity": {"field": "share", "type": "quantitative", "scale": opacity, "legend": None}
                    },
                },
                {"mark": {"type": "text", "fontSize": 11}, "encoding": {"text": {"field": "text"}}},
            ],
        }

    return Chart(title, summary, headline, head, rows, draw)


def history_chart(rows: Sequence[int], low: float, high: float) -> Chart:
    """Return the row counts of the loads of a table, the newest marked, over the range that was expected of it."""
    data = [{"load": load, "rows": count} for load, count in enumerate(rows)]
    expected = f"expected {low:,.0f} to {high:,.0f}"

    def draw(theme: Theme, _width: int) -> dict[str, Any]:
        color = theme["first"] if low <= rows[-1] <= high else theme["second"]
        band = {"data": {"values": [{"low": low, "high": high}]}, "mark": {"type": "rect", "opacity": 0.15}}
        return {
            "height": 120,
            "data": {"values": data},
            "encoding": {
                "x": {"field": "load", "type": "quantitative", "axis": None},
                "y": {"field": "rows", "type": "quantitative", "axis": {"format": ",d", "tickCount": 3}},
            },
            "layer": [
                {
                    **band,
                    "encoding": {
                        "x": {"value": 0},
                        "x2": {"value": "width"},
                        "y": {"field": "low"},
                        "y2": {"field": "high"},
                    },
                },
                {"mark": {"type": "line", "color": theme["first"]}},
                {
                    "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1, "color": color},
                    "transform": [{"filter": f"datum.load == {len(rows) - 1}"}],
                },
            ],
        }

    table = [(str(load + 1), f"{count:,}") for load, count in enumerate(rows)]
    return Chart("Rows per load", f"{rows[-1]:,} rows, {expected}.", None, ("Load", "Rows"), table, draw)


def _colors(theme: Theme, series: list[str], constant: str = "") -> dict[str, Any]:
    legend = {} if len(series) > 1 else {"legend": None}
    scale = {"domain": series, "range": [theme["first"], theme["second"]][: len(series)]}
    return {**({"datum": constant} if constant else {"field": "series"}), "type": "nominal", "scale": scale, **legend}


def _name_axis(names: Sequence[str], width: int = WIDE) -> dict[str, Any]:
    """Return an axis of names, as wide as the widest fonts need; the end of a long name is cut off."""
    most = (width * 2 // 5) // LETTER
    extent = min(most, max(map(len, names))) * LETTER
    cut = f"length(datum.label) > {most} ? slice(datum.label, 0, {most - 1}) + '…' : datum.label"
    return {"labelExpr": cut, "labelLimit": 0, "minExtent": extent, "grid": False}
