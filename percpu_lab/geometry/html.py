"""The layout as a picture for a notebook: one unit to scale, then the groups with their units and CPUs."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..units import format_bytes

if TYPE_CHECKING:
    from .info import AllocInfo, GroupInfo

MAX_GROUPS_SHOWN = 16
MAX_UNITS_SHOWN = 128

# Mid tones that stand out from white and from black; text never lies on them.
_FILLS = {"static": "#7f7f7f", "reserved": "#cc79a7", "dynamic": "#56b4e9",
          "unused": "repeating-linear-gradient(45deg,transparent 0 4px,#999 4px 5px)"}
_BOX = "display:inline-block;min-width:1.6em;padding:0 .2em;margin:0 1px;text-align:center;border:1px "


def layout_html(info: AllocInfo, title: str = "pcpu_alloc_info") -> str:
    """Draw a layout as HTML that takes its text colour from the theme.

    >>> from percpu_lab.geometry import pcpu_build_alloc_info
    >>> "<script>" in layout_html(pcpu_build_alloc_info(8192, 0, 0, 4096, cpus=2), title="<script>")
    False

    Args:
        info: the layout.
        title: a line of plain text above the picture.
    """
    return (f'<div style="max-width:48em;line-height:1.6"><div><b>{escape(title)}</b></div>'
            f"{_unit_bar(info)}{_legend(info)}{_groups(info)}</div>")


def _size(size_bytes: int) -> str:
    return escape(f"{format_bytes(size_bytes)} ({size_bytes:,} bytes)")


def _unit_bar(info: AllocInfo) -> str:
    label = ", ".join(f"{name} {size_bytes:,} bytes" for name, size_bytes in info.layout())
    parts = "".join(
        f'<div title="{escape(name)}: {_size(size_bytes)}" '
        f'style="width:{100 * size_bytes / info.unit_size:.3f}%;background:{_FILLS[name]}"></div>'
        for name, size_bytes in info.layout())
    return (f'<div role="img" aria-label="one unit: {escape(label)}" style="display:flex;height:1.4em;'
            f'border:1px solid currentColor;margin:.3em 0">{parts}</div>')


def _legend(info: AllocInfo) -> str:
    items = "".join(
        '<span style="margin-right:1.2em;white-space:nowrap"><span style="display:inline-block;width:.8em;height:.8em;'
        f'border:1px solid currentColor;background:{_FILLS[name]}"></span> {escape(name)} {_size(size_bytes)}</span>'
        for name, size_bytes in info.layout())
    return f"<div>{items}</div><div>one unit of {_size(info.unit_size)}, {info.unit_pages:,} pages</div>"


def _groups(info: AllocInfo) -> str:
    rows = "".join(_group_row(info, number, group) for number, group in enumerate(info.groups[:MAX_GROUPS_SHOWN]))
    more = info.nr_groups - MAX_GROUPS_SHOWN
    return rows + (f"<div>and {more:,} more groups</div>" if more > 0 else "")


def _group_row(info: AllocInfo, number: int, group: GroupInfo) -> str:
    units = group.cpu_map[:MAX_UNITS_SHOWN]
    step = info.upa or len(units)
    boxes = " ".join(_alloc_boxes(units[first:first + step]) for first in range(0, len(units), step))
    more = group.nr_units - MAX_UNITS_SHOWN
    return (f'<div><span title="base_offset {group.base_offset:,} bytes">group {number} at +{group.base_offset:#x}, '
            f"CPU of each unit: </span>{boxes}{f' and {more:,} more units' if more > 0 else ''}</div>")


def _alloc_boxes(units: tuple[int | None, ...]) -> str:
    """Draw the units of one allocation of alloc_size bytes; allocations keep apart and lines break between them."""
    boxes = "".join(map(_unit_box, units))
    return f'<span style="display:inline-block;margin-right:.4em">{boxes}</span>'


def _unit_box(cpu: int | None) -> str:
    if cpu is None:
        return f'<span title="a unit without a CPU" style="{_BOX}dashed currentColor;opacity:.6">-</span>'
    return f'<span style="{_BOX}solid currentColor">{cpu}</span>'
