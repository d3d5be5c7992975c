"""What each line of a trace is: an event, a marker, a loss, a comment, a part of a line that a mail wrapped, or odd.

    line ──layout of the line before──▶ event in its usual form                       nearly all
         └─ any layout ──▶ event in another form | marker | event of another system
         └─ loss | comment | stack | part of an event ──▶ wait for the rest | oddity

A line that is not understood never stops the reading: it becomes an oddity with its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import TraceFormatError
from ..tracepoints import Tracepoint, find_event
from .layouts import COUNTS, GOLDEN, LAYOUTS, LOST, PAYLOAD_LOST, STACK, Layout, time_of
from .recorded import Loss, Marker, Oddity, RingCounts
from .rows import Extra, Interned, Pointers, Rows

__all__ = ["MAX_ODDITIES", "LineReader", "OddityLog"]

MAX_ODDITIES = 1000  # of a kind; more are counted only
MAX_HEADER = 64  # lines
_MAX_LINE = 16384  # characters
_MAX_PARTS = 8  # of a wrapped line
_MAX_FILES = 64  # in a report
_QUOTE = re.compile(r"\s{0,4}>(?:[> ]+|$)")
_TRACE_CMD = re.compile(r"\s*(?:cpus=[0-9]+|version = \S+|CPU [0-9]+ is empty)")
_NAMED_FILE = re.compile(r"\s*(\S.{0,250}): (?:cpus=[0-9]+|CPU [0-9]+ is empty)")  # of several that trace-cmd reports
_BARE_EVENT = re.compile(r"([a-z]\w{1,60}): \w+[= ]")  # of another system, without context
_PREFIX_PART = re.compile(r"\s*\S.{0,15}?-?[0-9]{1,10}\s+(?:\(\s*(?:[0-9]+|-+)\)\s+)?\[[0-9]{1,5}\](?:\s.{0,60})?")
_BASE_ADDR = re.compile(r"\bbase_addr=((?:0x)?[0-9a-f]{1,16})\b")
_LAST_POINTER = re.compile(r".*\b(?:ptr|base_addr)=([0-9a-f]+)", re.DOTALL)


class OddityLog:
    """Oddities in the order of their lines, a limited number of each kind.

    skipped    not understood             wrapped, quoted   a mail did it; repaired
    left out   a percpu event with a damaged or missing field
    cut        a line without its end     event             percpu, but not one of the five
    header     a second one               time              it steps back a little
    mix        of two recordings          twice             an area handed out that is live
    address    not an identity            payload           of the options raw and hex
    damaged    the file ends too early    limit, text       too much to be kept
    incomplete the header tells of more entries than there are
    files      lines of a second data file, which are not read
    """

    def __init__(self) -> None:
        self.oddities: list[Oddity] = []
        self._nr: Counter[str] = Counter()
        self._last: dict[str, int] = {}

    def add(self, line: int, kind: str, text: str) -> None:
        """Note what is odd about a line."""
        self._nr[kind] += 1
        self._last[kind] = line
        if self._nr[kind] <= MAX_ODDITIES:
            self.oddities.append(Oddity(line, kind, text))

    def drop_after(self, line: int) -> None:
        """Forget what was noted behind a line."""
        self.oddities = [oddity for oddity in self.oddities if oddity.line <= line]

    def result(self) -> tuple[Oddity, ...]:
        """Give the oddities, and of each kind how many more there were."""
        more = [
            Oddity(self._last[kind], kind, f"{number - MAX_ODDITIES:,} more lines are odd in this way, up to this one")
            for kind, number in self._nr.items()
            if number > MAX_ODDITIES
        ]
        return tuple(sorted(self.oddities + more, key=lambda oddity: oddity.line))


@dataclass(slots=True)
class _Part:
    """A line that may go on in the next one, its number, and the event in it if it can stand alone."""

    line: int
    text: str
    nr_lines: int = 1
    event: tuple[Tracepoint, tuple[str, ...], dict[str, Any], Extra] | None = None
    problem: str = ""
    is_prefix: bool = False


class DataFiles:
    """The data files that one report of trace-cmd puts together, of which that with the first percpu event is read.

      a.dat: cpus=4                          the head names each file
    bee.dat: cpus=2
      a.dat:    ip-136 [003]  86.889221: percpu_...           read
    bee.dat:    sh-1   [000]  86.889230: percpu_...           of another machine or ring: left out
    bee.dat: CPU:0 [192 EVENTS DROPPED]
       sh-1   [000]  86.889240: percpu_...                    of the file of the line before
    """

    def __init__(self) -> None:
        self._prefix: re.Pattern[str] | None = None
        self._names: dict[str, None] = {}
        self._read: str | None = None  # the one that is read, once it is known
        self._dropped: str | None = None  # the one that the line before names, if that tells of a loss

    def __bool__(self) -> bool:
        return self._prefix is not None

    def take_head(self, line: str) -> bool:
        """Learn a name from a line of the head; False if it is none."""
        match = _NAMED_FILE.fullmatch(line) if len(self._names) < _MAX_FILES else None
        if match is not None:
            self._names[match[1]] = None
            self._prefix = re.compile(rf"\s*({'|'.join(map(re.escape, self._names))}): ")
        return match is not None

    def split(self, line: str) -> tuple[str, str]:
        """Take the name from a line -> name ("" without one), rest; once an event was read."""
        assert self._prefix is not None, "there are names"
        match = self._prefix.match(line)
        name, rest = (match[1], line[match.end() :]) if match else (self._dropped or "", line)
        self._dropped = name if LOST.match(rest) else None
        return name, rest

    def is_read(self, name: str, rest: str) -> bool:
        """Tell whether the lines of a file are read; the first with a percpu event decides."""
        if self._read is None and "percpu_" in rest:
            self._read = name
        return self._read in (None, name)

    def why_left_out(self, name: str) -> str:
        """Say why lines are not read."""
        what = f"lines of {name or 'a file without a name'} are left out: those of {self._read or 'another'} are read"
        return f"{what}; let trace-cmd report the files one by one, each into a text of its own"


def _stands_alone(line: str, part: _Part) -> bool:
    """Tell whether a line is one of its own, not the rest of a part."""
    if line.startswith("#") or LOST.match(line) or _PREFIX_PART.fullmatch(line):
        return True
    layouts = LAYOUTS[:-1] if part.is_prefix else LAYOUTS  # the event behind a prefix looks as one without context
    return any(layout.any_event.fullmatch(line) for layout in layouts)


class LineReader:
    """Reads lines one by one, a block at a time; keeps what outlasts a block.

    Args:
        layouts: what lines may look like, the likeliest first.
    """

    def __init__(self, layouts: tuple[Layout, ...] = LAYOUTS) -> None:
        self.strings = Interned()
        self.bases = Pointers()
        self.log = OddityLog()
        self.layouts: dict[str, None] = {}  # names, in the order they were met
        self.counts: RingCounts | None = None
        self.counts_line = 0
        self.header: list[str] = []
        self.nr_other = 0
        self.other = ""  # the first event of another system
        self.nr_payloads_lost = 0
        self.is_quoted = False
        self.is_stats = False  # a heading of percpu_stats was met
        self.is_trace_cmd = False
        self.files = DataFiles()
        self._left_out: set[str] = set()  # names of the others
        self.new_header = 0  # line of a header behind events, until the next event
        self.header_lines: list[int] = []  # of all such headers
        self._layouts = layouts
        self._layout = layouts[0]
        self._has_layout = False
        self._is_raw = False  # the values of the last line stood there as the option `fields` prints them
        self._part: _Part | None = None
        self._nr_events = 0
        self._start_block()

    def _start_block(self) -> None:
        self.rows = Rows(self.strings, self.bases)
        self.markers: list[Marker] = []
        self.losses: list[Loss] = []

    def read_block(self, lines: list[str], first_line: int) -> None:
        """Read lines; their events are then in `rows`, and in `markers` and `losses` what stands between those."""
        self._nr_events += len(self.rows)
        self._start_block()
        rows, match = self.rows, self._fast_match()
        for number, line in enumerate(lines, first_line):
            if self.files:
                name, line = self.files.split(line)
                if not self.files.is_read(name, line):
                    self._leave_out(number, name)
                    continue
            found = match(line)
            if found is not None and self._part is None and self._has_layout:
                rows.add(found, number, is_raw=self._is_raw)
            else:
                self._any_line(number, line)
                match = self._fast_match()

    def _leave_out(self, number: int, name: str) -> None:
        """Pass over a line of another data file."""
        if name not in self._left_out:
            self._left_out.add(name)
            self.log.add(number, "files", self.files.why_left_out(name))

    def _fast_match(self) -> Callable[[str], re.Match[str] | None]:
        return self._layout.fast(max(self.bases.widths, default=0), is_raw=self._is_raw).fullmatch

    def finish(self) -> None:
        """Take what still waits for its rest; its event is then in `rows`."""
        self._nr_events += len(self.rows)
        self._start_block()
        self._give_up_part(is_end=True)

    @property
    def waits(self) -> bool:
        """Tell whether the last line may go on in the next."""
        return self._part is not None

    # --- one line -----------------------------------------------------------------

    def _any_line(self, number: int, line: str) -> None:
        line = line.rstrip("\r")
        quote = _QUOTE.match(line)
        if quote:
            line = line[quote.end() :]
            if not self.is_quoted:
                self.log.add(number, "quoted", "lines are quoted as in a mail; the quote marks are left out")
            self.is_quoted = True
        if not line.strip() or (self._part is not None and self._went_on(line)):
            return
        self._give_up_part()
        if len(line) > _MAX_LINE:
            self.log.add(number, "skipped", f"a line of {len(line):,} characters")
        elif self._layouts == (GOLDEN,):
            if not self._event(number, line):
                self._unknown(number, line)
        elif line.startswith("#"):
            self._comment(number, line)
        elif not (self._event(number, line) or self._other(number, line) or self._loss(number, line)):
            self._unknown(number, line)

    def _event(self, number: int, line: str) -> bool:
        if "percpu_" not in line:
            return False
        for layout in (self._layout, *self._layouts):
            match = layout.percpu_event.fullmatch(line)
            if match is not None:
                self._use(layout)
                self._take(_Part(number, line), layout, match)
                return True
        return False

    def _use(self, layout: Layout) -> None:
        self._layout, self._has_layout = layout, True
        is_ftrace = layout.name.startswith("ftrace")
        self.layouts.setdefault("trace-cmd" if is_ftrace and self.is_trace_cmd else layout.name)

    def _take(self, part: _Part, layout: Layout, match: re.Match[str]) -> None:
        """Add the event of a line or of its parts, or wait for its rest."""
        *prefix, name, fields = match.groups("")
        try:
            point, _ = find_event(f"{name}:")
        except TraceFormatError:
            self.log.add(part.line, "event", f"an event that this program does not know: {name}")
            self._count_other(name)
            return
        part.is_prefix = False
        self._is_raw = fields.endswith(")")
        try:
            values, extra = point.read_fields(fields)
        except TraceFormatError as error:
            part.problem, part.event = error.what, None
            self._part = part
            return
        part.event = (point, tuple(prefix), values, extra)
        part.problem = self._what_is_missing(values, fields)
        if part.problem:
            self._part = part
        else:
            self._add(part)

    def _what_is_missing(self, values: dict[str, Any], fields: str) -> str:
        if ("call_site" in values) != ("gfp_flags" in values):
            return "the line ends before gfp_flags="
        pointer = _LAST_POINTER.fullmatch(fields.rstrip())
        if pointer is not None and self.bases.widths and len(pointer[1]) < min(self.bases.widths):
            return "the line ends within an address"
        return ""

    def _add(self, part: _Part) -> None:
        assert part.event is not None, "it was read"
        point, prefix, values, extra = part.event
        self._part = None
        if part.nr_lines > 1:
            self.log.add(part.line, "wrapped", f"an event on {part.nr_lines} lines; they were joined")
        if "ptrval" in part.text:
            self.log.add(part.line, "address", "an address that was printed before it could be hashed; taken as 0")
        base_addr = _BASE_ADDR.search(part.text)
        if base_addr is not None:
            _ = self.bases[base_addr[1]]  # how wide addresses are
        self.rows.add_read(point, prefix, values, extra, part.line)

    def _comment(self, number: int, line: str) -> None:
        counts = COUNTS.fullmatch(line)
        nr_events = self._nr_events + len(self.rows)
        if nr_events and line.startswith("# tracer:"):
            self.new_header = self.new_header or number
            self.header_lines.append(number)
            self.log.add(number, "header", "a second header: the text of another trace begins here")
        if counts:
            if self.counts is None:
                self.counts, self.counts_line = RingCounts(*map(int, counts.groups())), number
            lost = int(counts[2]) - int(counts[1])
            if lost > 0:
                self.losses.append(Loss(len(self.rows), number, -1, lost, "overwritten"))
        if not nr_events and len(self.header) < MAX_HEADER:
            self.header.append(line)

    def _other(self, number: int, line: str) -> bool:
        """Take a marker or an event of another system."""
        for layout in (self._layout, *self._layouts):
            match = layout.any_event.fullmatch(line) if layout is not GOLDEN else None
            if match is not None:
                self._take_other(number, match.groups(""))
                return True
        name = _BARE_EVENT.match(line) if self._layout is LAYOUTS[-1] else None
        if name is not None:
            self._count_other(name[1])
        return name is not None

    def _take_other(self, number: int, groups: tuple[str, ...]) -> None:
        task, pid, cpu, _, first, second, name, text = groups
        if name == "print":
            name, _, text = text.partition(": ")
        if name.partition("+")[0].endswith("tracing_mark_write"):
            time, who = time_of(first, second)[0], self.strings[task]
            marker = Marker(len(self.rows), number, text, time, who, int(pid or -1), int(cpu or -1))
            self.markers.append(marker)
        else:
            self._count_other(name)

    def _count_other(self, name: str) -> None:
        self.nr_other += 1
        self.other = self.other or name

    def _loss(self, number: int, line: str) -> bool:
        match = LOST.match(line)
        if match is not None:
            nr_events = match[2] or match[3]
            how = "DROPPED" if line.rstrip().endswith("DROPPED]") else "LOST"
            self.losses.append(Loss(len(self.rows), number, int(match[1]), int(nr_events) if nr_events else None, how))
        return match is not None

    def _unknown(self, number: int, line: str) -> None:
        if self.files.take_head(line) or _TRACE_CMD.fullmatch(line):
            self.is_trace_cmd = True
            if len(self.header) < MAX_HEADER:
                self.header.append(line)
        elif PAYLOAD_LOST.fullmatch(line):
            self.nr_payloads_lost += 1
            if self.nr_payloads_lost == 1:
                text = "lines of the option raw or hex hold a number in place of the event: its fields are lost"
                self.log.add(number, "payload", text)
        elif _PREFIX_PART.fullmatch(line):
            self._part = _Part(number, line, problem="no event stands here", is_prefix=True)
        elif not STACK.fullmatch(line):
            self.is_stats |= line.startswith("Percpu Memory Statistics")
            self.log.add(number, "skipped", f"not a line of a trace: {line[:80]!r}")

    # --- lines that were wrapped ----------------------------------------------------

    def _went_on(self, line: str) -> bool:
        """Join a line to the one that waits, if it is no line of its own."""
        part = self._part
        assert part is not None, "it waits"
        is_rest = "=" in line or part.event is None  # of an event that lacks only its last fields
        if part.nr_lines >= _MAX_PARTS or len(line) > _MAX_LINE or not is_rest or _stands_alone(line, part):
            return False
        joined = f"{part.text.rstrip()} {line.strip()}"
        for layout in (self._layout, *LAYOUTS[:-1]):
            match = layout.percpu_event.fullmatch(joined)
            if match is not None:
                part.text, part.nr_lines = joined, part.nr_lines + 1
                self._use(layout)
                self._take(part, layout, match)
                return True
        if part.is_prefix and _PREFIX_PART.fullmatch(joined):
            part.text, part.nr_lines = joined, part.nr_lines + 1
            return True
        return False

    def _give_up_part(self, *, is_end: bool = False) -> None:
        """No rest came: take the event if it can stand alone, else skip it."""
        part, self._part = self._part, None
        if part is None:
            return
        is_cut = part.problem.startswith("the line ends within")
        if part.event is not None and not is_cut and not is_end:
            self._add(part)
        else:
            last = "the last line is cut and was left out: " if is_end else "left out: "
            kind = "cut" if is_end or is_cut else "skipped" if part.is_prefix else "left out"
            self.log.add(part.line, kind, f"{last}{part.problem}: {part.text[:80]!r}")
