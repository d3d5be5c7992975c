"""Buttons and sliders beside the views; they only say what is wanted, the dashboard does it at a safe point."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import ipywidgets as widgets

from ..gfp import GFP_ATOMIC, GFP_KERNEL
from ..workloads import WORKLOADS

MAX_PACE = 100_000.0
_WORDS = {"description_width": "initial"}


def _wide(width: str) -> widgets.Layout:
    return widgets.Layout(width=width)  # a new one each: a layout is closed with its widget


def _wrapped() -> widgets.Layout:
    return widgets.Layout(flex_flow="row wrap")


class Mover(Protocol):
    """What moves through ops; every call may come from any thread, even during a cell."""

    def ask(self, command: Callable[[], None]) -> None:
        """Have a command done at the next safe point."""

    def play(self, pace: float) -> None:
        """Go on by itself, at a pace in ops per second."""

    def pause(self) -> None:
        """Stop playing."""

    def step(self, nr_ops: int) -> None:
        """Go on by some ops."""

    def seek(self, op: int) -> None:
        """Go to an op of a recording."""


class Board(Mover, Protocol):
    """What controls ask of a dashboard; every call may come from any thread, even during a cell."""

    def alloc(self, size: int, align: int, gfp: int, reserved: bool) -> None:
        """Allocate, and select what came of it."""

    def free_selected(self) -> None:
        """Free the selected area."""

    def free_last(self) -> None:
        """Free what was allocated last by hand."""

    def balance(self) -> None:
        """Run the balance work if it is pending."""

    def load(self, workload: str, seed: int) -> None:
        """Take a workload to be played from its start."""


def _button(text: str, tip: str, act: Callable[[], None], icon: str = "") -> widgets.Button:
    button = widgets.Button(description=text, tooltip=tip, icon=icon, layout=_wide("auto"))
    button.on_click(lambda _button: act())
    return button


class Message(widgets.HTML):
    """One line that says what the last command did; its text is never markup."""

    def say(self, text: str, *, is_error: bool = False) -> None:
        """Show a text."""
        colour = "color:var(--jp-error-color1, #b00020)" if is_error else ""
        self.value = (
            f"<span style='font-family:var(--jp-code-font-family, monospace);{colour}'>{html.escape(text)}</span>"
        )


class RequestControls(widgets.HBox):
    """Allocate and free by hand: size, alignment, gfp, reserved; balance now.

    Args:
        board: does what is asked.
    """

    def __init__(self, board: Board) -> None:
        self.size = widgets.BoundedIntText(
            value=64, min=0, max=1 << 20, description="size (bytes)", style=_WORDS, layout=_wide("160px")
        )
        self.align = widgets.Dropdown(
            options=[1 << k for k in range(13)],
            value=8,
            description="align",
            style=_WORDS,
            layout=_wide("110px"),
        )
        self.gfp = widgets.Dropdown(
            options=[("GFP_KERNEL", GFP_KERNEL), ("GFP_ATOMIC", GFP_ATOMIC)], description="gfp", style=_WORDS,
            layout=_wide("160px"),
        )  # fmt: skip
        self.reserved = widgets.Checkbox(description="reserved", indent=False, layout=_wide("85px"))
        buttons = (
            _button("alloc_percpu", "Allocate this on every CPU", lambda: board.ask(self._alloc(board)), "plus"),
            _button(
                "free selected", "Free the area you clicked in a view", lambda: board.ask(board.free_selected), "minus"
            ),
            _button("free last", "Free what was allocated last with these buttons", lambda: board.ask(board.free_last)),
            _button(
                "balance now",
                "Run the balance work, if it is pending",
                lambda: board.ask(board.balance),
                "balance-scale",
            ),
        )
        super().__init__([self.size, self.align, self.gfp, self.reserved, *buttons], layout=_wrapped())

    def _alloc(self, board: Board) -> Callable[[], None]:
        wanted = (self.size.value, self.align.value, self.gfp.value, self.reserved.value)
        return lambda: board.alloc(*wanted)


class PaceControls(widgets.HBox):
    """Play, pause and step, at a pace."""

    def __init__(
        self,
        board: Mover,
        first: tuple[widgets.Widget, ...] = (),
        *,
        steps: tuple[int, ...] = (1, 100),
        moment: str = "op",
    ) -> None:
        self.pace = widgets.FloatLogSlider(
            value=200, base=10, min=0, max=5, step=0.1, readout_format=",.0f", description=f"pace ({moment}s/s)",
            style=_WORDS, layout=_wide("300px"),
        )  # fmt: skip
        self.pace.observe(lambda _change: board.ask(self._change_pace(board)), "value")
        self._playing = False
        play = _button("play", "Go on by itself at this pace", lambda: board.ask(self._play(board)), "play")
        pause = _button("pause", "Stop", lambda: board.ask(self._pause(board)), "pause")
        stepping = [
            _button(f"step {n:+,}" if n != 1 else "step", f"Go {'on' if n > 0 else 'back'} by {abs(n):,} {moment}s",
                    partial(board.ask, partial(board.step, n)), "step-forward" if n > 0 else "step-backward")
            for n in steps
        ]  # fmt: skip
        super().__init__([*first, play, pause, *stepping, self.pace], layout=_wrapped())

    def _play(self, board: Mover) -> Callable[[], None]:
        def act() -> None:
            self._playing = True
            board.play(self.pace.value)

        return act

    def _pause(self, board: Mover) -> Callable[[], None]:
        def act() -> None:
            self._playing = False
            board.pause()

        return act

    def _change_pace(self, board: Mover) -> Callable[[], None]:
        return lambda: board.play(self.pace.value) if self._playing else None


class WorkloadControls(widgets.VBox):
    """Choose a workload and its seed, and play it."""

    def __init__(self, board: Board) -> None:
        self.workload = widgets.Dropdown(
            options=[(f"{w.name}: {w.description}", w.name) for w in WORKLOADS.values() if w.name != "benchmark"],
            value="kernel_mix", description="workload", style=_WORDS, layout=_wide("430px"),
        )  # fmt: skip
        self.seed = widgets.BoundedIntText(
            value=0, min=0, max=2**31 - 1, description="seed", style=_WORDS, layout=_wide("130px")
        )
        load = _button("load", "Begin this workload from its start", lambda: board.ask(self._load(board)), "refresh")
        self.pace = PaceControls(board)
        row = widgets.HBox([self.workload, self.seed, load], layout=_wrapped())
        super().__init__([row, self.pace])

    def _load(self, board: Board) -> Callable[[], None]:
        name, seed = self.workload.value, self.seed.value
        return lambda: board.load(name, seed)


class RecordingControls(widgets.VBox):
    """Move through a recorded run: a slider over its ops, play, pause, steps both ways."""

    def __init__(self, board: Mover, first_op: int, last_op: int, now: int, moment: str = "op") -> None:
        self.op = widgets.IntSlider(
            value=now, min=first_op, max=last_op, description=moment, continuous_update=True, style=_WORDS,
            layout=_wide("95%"),
        )  # fmt: skip
        self._told: Any = None
        self.op.observe(lambda change: self._moved(board, change["new"]), "value")
        super().__init__([self.op, PaceControls(board, steps=(-100, -1, 1, 100), moment=moment)])

    def _moved(self, board: Mover, op: int) -> None:
        if op != self._told:  # else the slider follows the run, and the run need not follow the slider
            board.ask(lambda: board.seek(op))

    def show(self, op: int) -> None:
        """Move the slider to where the run is."""
        self._told = op
        self.op.value = op
