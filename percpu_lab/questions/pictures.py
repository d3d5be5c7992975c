"""The two charts that answers need, in the style of the static views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..plain import one_line
from ..views.static import Picture

_WIDTH_INCHES = 9.0
_BAR_INCHES = 0.28
_NAME_LETTERS = 48
_MAX_TICKS = 7


def bars(title: str, names: Sequence[str], values: Sequence[float], unit: str = "bytes") -> Picture | None:
    """Draw one bar a name, the first on top; None if there is nothing to draw.

    >>> bars("sizes", ["a", "b"], [2, 1])
    <Picture: sizes>
    """
    from matplotlib.figure import Figure

    from ..views import _style

    if not names:
        return None
    figure = Figure(figsize=(_WIDTH_INCHES, 1.0 + _BAR_INCHES * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), values, color=_style.IN_USE[:7])
    axes.set_yticks(range(len(names)), [_name(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("" if unit == "bytes" else unit, fontsize=8)
    _finish(axes, title, unit)
    return Picture(figure, title)


def steps(title: str, curves: Sequence[tuple[str, Sequence[int], Sequence[int]]], x: str, y: str) -> Picture | None:
    """Draw levels over rows, a line a name; None if there is nothing to draw."""
    from matplotlib.figure import Figure

    if not curves:
        return None
    figure = Figure(figsize=(_WIDTH_INCHES, 3.0), layout="constrained")
    axes = figure.subplots()
    # handed over one by one: of themselves legends leave out names that begin with an underscore
    lines = [axes.step(rows, levels, where="post", linewidth=1.4)[0] for _, rows, levels in curves]
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_ylim(0, None)
    axes.legend(lines, [_name(name) for name, _, _ in curves], fontsize=8, frameon=False, loc="upper left")
    _finish(axes, title, "")
    return Picture(figure, title)


def _name(name: str) -> str:
    # a dollar sign would begin a formula
    short = one_line(name)
    return (short if len(short) <= _NAME_LETTERS else short[: _NAME_LETTERS - 1] + "\u2026").replace("$", r"\$")


def _finish(axes: Any, title: str, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    from ..units import format_bytes

    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: format_bytes(v) if unit == "bytes" else f"{v:,.0f}"))
    if unit == "bytes":
        axes.xaxis.set_major_locator(MultipleLocator(_step(axes.get_xlim()[1])))


def _step(most: float) -> float:
    """A power of two, of which a few make up the most."""
    return 2.0 ** math.ceil(math.log2(max(most / _MAX_TICKS, 1.0)))
