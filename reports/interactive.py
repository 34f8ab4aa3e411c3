"""A Plotly figure as a fragment of HTML; the page that embeds it carries plotly.js once."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from reports.style import INK

LOOK: Any = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK}, "paper_bgcolor": "white",
    "plot_bgcolor": "white", "margin": {"l": 60, "r": 16, "t": 16, "b": 60}, "hoverlabel": {"align": "left"},
}  # fmt: skip
GRID: Any = {"gridcolor": "#E9ECF0", "linecolor": "#C5CBD3", "zeroline": False, "ticks": "outside",
             "tickcolor": "#C5CBD3", "title_font_size": 13}  # fmt: skip


def fragment(figure: go.Figure, name: str) -> str:
    """The figure as a `div` whose id is `name`."""
    config = {
        "responsive": True,
        "displaylogo": False,
        "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    }
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
