"""The page about a recording: one file, nothing fetched, nothing of a trace becomes markup."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_traces import alloc, create, fail, free, marker, trace

import percpu_lab as lab
import percpu_lab.questions
import percpu_lab.views.static
from percpu_lab.__main__ import main
from percpu_lab.errors import LabError, RequestError
from percpu_lab.report import report
from percpu_lab.review import review
from percpu_lab.traces.recording import Recording

DATA = Path(__file__).parent / "data" / "real"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, their attributes, and the text between them; checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report(review(lab.open_trace(DATA / "folders" / "pcs-smp3-boot"), jit="off")).html)


def test_the_page_says_the_verdict_first(page: Page) -> None:
    assert page.text.index("6.1.192-pcpustats, 3 CPUs") < page.text.index("Who holds the most at the end?")
    assert "2 of 2 readings of percpu_stats equal" in page.text


@pytest.mark.parametrize(
    "words",
    ["Can the recording be trusted?", "Who leaks", "Which requests failed", "What is lost", "which slot?",
     "Are the decisions", "What changed from stats/000-00-init-first.txt", "Odd lines", "certain:", "inferred:"],
)  # fmt: skip
def test_the_page_answers_the_questions(words: str, page: Page) -> None:
    assert words in page.text


def test_the_page_has_pictures_within_it(page: Page) -> None:
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) >= 5
    assert all((image["src"] or "").startswith("data:image/png;base64,iVBOR") for image in images)
    assert all(image["alt"] for image in images)


def test_the_page_needs_no_script_and_nothing_from_elsewhere(page: Page) -> None:
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base", "form"} == set()
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))


def test_links_within_the_page_lead_somewhere(page: Page) -> None:
    names = {attributes.get("id") for _, attributes in page.elements}
    links = [(attributes["href"] or "")[1:] for tag, attributes in page.elements if tag == "a"]
    assert len(links) > 8
    assert [link for link in links if link not in names] == []


def test_names_in_a_trace_never_become_markup() -> None:
    bad = '<script>alert(1)</script>"&\x1b[2J'
    found = Page(report(trace(
        marker(f"BEGIN {bad}", 0.5), alloc(0, 8, 1.0, site="<img/src=x/onerror=alert(1)>", task="<b>&-1"),
        alloc(8, 8, 1.0, site=bad.replace(" ", "")), fail(8, 2.0), "<script>what is this</script>", free(0, 3.0),
    )).html)  # fmt: skip
    assert {tag for tag, _ in found.elements} & {"script", "b", "svg"} <= {"b"}
    assert not [attributes for tag, attributes in found.elements if tag == "img" and "onerror" in attributes]
    assert "<img/src=x/onerror=alert(1)>" in found.text
    assert "\x1b" not in found.text


def test_odd_lines_are_listed_with_their_numbers() -> None:
    odd = trace(alloc(0, 8, 1.0), "what is this?", alloc(8, 8, 2.0), "CPU:1 [LOST 9 EVENTS]", free(0, 3.0))
    found = Page(report(odd).html)
    assert "line 2" in found.text
    assert "what is this?" in found.text
    assert "9 events (LOST)" in found.text


def test_a_chunk_that_stays_is_explained() -> None:
    found = Page(report(trace(create(1.0, 0x50000), alloc(0, 8, 2.0, base=0x50000))).html)
    assert re.search(r"Why is chunk \d not freed\?", found.text)


def test_the_verb_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    source = tmp_path / "tiny.txt"
    source.write_text(f"{alloc(0, 8, 1.0)}\n{free(0, 2.0)}\n")
    assert main(["report", str(source), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    Page(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("broken", ["verdict", "consistency", "top", "leaks", "failures", "slots", "lint"])
def test_a_question_that_fails_leaves_its_error_in_its_place(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise RequestError("<b>no</b> answer\x1b[2J", where="here", remedy="ask again")

    recording = lab.open_trace(DATA / "folders" / "pcs-smp3-boot")
    monkeypatch.setattr(percpu_lab.questions, broken, fails)
    made = report(review(recording, jit="off"))
    found = Page(made.html)
    asked = 2 if broken == "top" else 1
    assert found.text.count("here: <b>no</b> answer\\x1b[2J; ask again") == len(made.problems) >= asked
    assert "Where the areas lie" in found.text
    for words in ("What is lost", "which slot", "What changed from", "Odd lines"):
        assert words in found.text


def test_a_picture_that_fails_leaves_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object) -> None:
        raise LabError("pictures need matplotlib", where="picture()", remedy="pip install matplotlib")

    monkeypatch.setattr(percpu_lab.questions.Top, "picture", fails)
    monkeypatch.setattr(percpu_lab.views.static, "picture", fails)
    made = report(lab.open_trace(DATA / "folders" / "deb61-smp4-boot"))
    text = Page(made.html).text
    assert text.count("no picture: picture(): pictures need matplotlib") == len(made.problems) == 3
    assert "hold" in text


def test_the_exit_status_says_that_an_answer_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object) -> None:
        raise LabError("no", where="here", remedy="ask again")

    monkeypatch.setattr(percpu_lab.questions, "waste", fails)
    out = tmp_path / "page.html"
    source = tmp_path / "tiny.txt"
    source.write_text(f"{alloc(0, 8, 1.0)}\n{free(0, 2.0)}\n")
    assert main(["report", str(source), "-o", str(out)]) == 1
    text, errors = capsys.readouterr()
    assert text == f"{out}: {out.stat().st_size:,} bytes\n"
    assert errors.startswith("percpu_lab: What is lost")
    assert errors.count("\n") == 1


def test_a_page_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "no trace"), "-o", str(tmp_path / "none" / "page.html")]) == 1
    assert "the page cannot be written there" in capsys.readouterr().err


def test_a_long_recording_that_ends_with_nothing_live_is_drawn(tmp_path: Path) -> None:
    pairs = [(alloc(8 * (k % 64), 8, k), free(8 * (k % 64), k + 0.5)) for k in range(6000)]
    source = tmp_path / "trace.txt"
    source.write_text("\n".join(line for pair in pairs for line in pair) + "\n")
    made = report(lab.open_trace(source))
    assert made.problems == ()
    assert "At the end of the recording" in made.html


def test_names_that_no_font_has_are_no_warning() -> None:
    odd = trace(marker("BEGIN \x1b[2J\u65e5", 0.5), alloc(0, 8, 1.0, site="f\u65e5\x07+0x1/0x2"), free(0, 2.0))
    assert report(odd).problems == ()
    recording = Recording("trace", Path("trace"), odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report(recording).problems == ()
