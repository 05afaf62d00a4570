"""The lessons: text and notebook are one, every one holds checks, and a broken library breaks them.

`make notebooks` executes them in a kernel; here their text runs as a script, which is quicker and
lets a fault be planted first.
"""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

import convgraph as cg
from convgraph.backends.dense import conv as dense
from convgraph.backends.gather import edges as gather
from convgraph.backends.messages import edges as messages
from convgraph.functional import prepared
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.memo import forget
from convgraph.scale.tiling import Tiling
from convgraph.spaces import charts
from tests.lesson_cells import (
    exercises,
    lesson_paths,
    pictures_without_words,
    spoilt,
    without_magics,
)

jupytext = pytest.importorskip("jupytext", reason="the lessons need the extra `notebooks`")
pytest.importorskip("IPython", reason="the lessons need the extra `notebooks`")

# matplotlib is handed torch's tensors, which have not caught up with NumPy's newest signature.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
LESSONS = lesson_paths(FOLDER)
NAMES = [path.stem[:2] for path in LESSONS]


@pytest.fixture
def run(monkeypatch):
    """Run a lesson's text as a script, from a clean state, without a screen."""

    def script(number: str) -> None:
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.chdir(FOLDER)
        mpl.use("Agg")
        (path,) = [p for p in LESSONS if p.stem.startswith(number)]
        from matplotlib import pyplot

        before = torch.random.get_rng_state()
        try:
            runpy.run_path(str(path))
        finally:
            torch.random.set_rng_state(before)
            pyplot.close("all")
            sys.modules.pop("lesson", None)

    return script


def test_they_are_numbered_without_a_gap():
    assert [f"{n:02d}" for n in range(1, len(NAMES) + 1)] == NAMES
    assert len(NAMES) >= 15


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_text_and_notebook_are_one(path):
    text = jupytext.read(path)
    book = jupytext.read(path.with_suffix(".ipynb"))
    assert [(c.cell_type, c.source) for c in text.cells] == [
        (c.cell_type, c.source) for c in book.cells
    ]


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_it_was_executed_and_shows_its_checks(path):
    book = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    shown = "".join(
        "".join(output.get("text", "")) for cell in code for output in cell.get("outputs", [])
    )
    assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
    assert shown.count("\N{CHECK MARK}") >= 3


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_every_answer_is_folded_away_before_anything_is_printed(path):
    cells = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert spoilt(cells) == []
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert "<summary><b>Answer</b>" in text


def test_an_answer_that_stands_open_is_found():
    asked = {"cell_type": "markdown", "source": ["**Guess** how many."]}
    printed = {"cell_type": "code", "source": ["print(9)"], "outputs": [{"text": "9"}]}
    late = {
        "cell_type": "markdown",
        "source": ["<details><summary><b>Answer</b></summary>9</details>"],
    }
    assert spoilt([asked, printed, late]) == ["**Guess** how many.", "".join(late["source"])]
    together = {"cell_type": "markdown", "source": [*asked["source"], *late["source"]]}
    assert spoilt([together, printed]) == []


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_every_picture_has_words(path):
    cells = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert pictures_without_words(cells) == []


def test_a_picture_without_words_is_found():
    silent = {"data": {"image/png": ""}, "metadata": {"image/png": {"alt": "a picture"}}}
    said = {
        "data": {"image/png": ""},
        "metadata": {"image/png": {"alt": "A node with nine arrows."}},
    }
    cells = [{"execution_count": n, "outputs": [o]} for n, o in ((1, silent), (2, said))]
    assert pictures_without_words(cells) == [1]


TRAINING = "digits = load_digits()"
"""Where a lesson begins to train networks, up to its exercises, which read nothing of it. That
takes a minute, and `make notebooks` executes it with its checks."""


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_its_exercises_can_be_solved_and_wrong_answers_fail(path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(FOLDER)
    mpl.use("Agg")
    from matplotlib import pyplot

    cells = jupytext.read(path).cells
    tasks = {task.at: task for task in exercises(cells)}
    assert len(tasks) >= 3
    space: dict[str, object] = {"__name__": "__main__"}
    # As in a kernel: PyG reads the source of a class of a file, and these cells are in none.
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def execute(source: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(without_magics(source), str(path), "exec"), space)
        return said.getvalue()

    before, trains = torch.random.get_rng_state(), False
    try:
        for at, cell in enumerate(cells):
            if cell.cell_type != "code":
                continue
            if at not in tasks:
                trains = trains or TRAINING in cell.source
                if not trains:
                    execute(cell.source)
                continue
            assert "\N{WHITE CIRCLE} your turn" in execute(tasks[at].given)
            with pytest.raises(AssertionError, match="Not yet"):
                execute(tasks[at].slip)
            assert "\N{HEAVY CHECK MARK} solved" in execute(tasks[at].solution)
    finally:
        torch.random.set_rng_state(before)
        pyplot.close("all")
        sys.modules.pop("lesson", None)


def _without_return(x):
    x[0] + 1


def _too_short(x):
    first = x[0]
    return first + no_such_name  # noqa: F821


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("54", "Your answer: '54'"),
        (torch.ones(3, 4), "could not be tried: RuntimeError: mat1 and mat2"),
        (torch.ones(3, 40), "Your answer: a tensor of shape (3, 40)"),
        (_without_return, "_without_return returns nothing; is `return` missing?"),
        (_too_short, "NameError: name 'no_such_name' is not defined\nin line 3 of _too_short"),
    ],
    ids=["text", "shape", "large", "nothing", "name"],
)
def test_whatever_a_student_writes_is_answered_without_a_traceback(answer, words, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import lesson

    def holds(given):
        if isinstance(given, str):
            return False
        return given(torch.ones(2)) if callable(given) else (given @ torch.ones(2, 1)).any()

    with pytest.raises(AssertionError, match="Not yet: a claim") as wrong:
        lesson.examine("a claim", answer, holds)
    sys.modules.pop("lesson", None)
    assert words in str(wrong.value)
    assert wrong.value._render_traceback_() == str(wrong.value).split("\n")


@pytest.mark.parametrize(
    ("got", "wanted", "words"),
    [
        (54, 55, "54 is too small."),
        ("54", 54, "a number is asked for, not '54'."),
        ((4, 20), (4, 9), "number 2 of 2: 20 is too large."),
        (4, (4, 9), "2 values are asked for, not 4."),
        ((4, 9, 9), (4, 9), "2 values are asked for, not (4, 9, 9)."),
        ({"white": 1.0}, {"white": 0}, "white: 1.0 is too large."),
        (True, False, "it is True, and should be False."),
        ([1.0], torch.ones(1), "a tensor is asked for, not [1.0]."),
        (torch.ones(3, 2), torch.ones(2, 3), "its shape is (3, 2), and should be (2, 3)."),
        (torch.ones(2), torch.ones(2).double(), "its dtype is torch.float32, and should be"),
        (torch.eye(2), torch.ones(2, 2), "at [0, 1] it is 0, and should be 1; 2 of 4 entries"),
        (torch.ones(1), torch.ones(1) + 2**-20, "at [0] it is 1, and should be 1.00000095; 1 of"),
    ],
)
def test_of_a_wrong_answer_is_told_what_is_different(got, wanted, words, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import lesson

    assert lesson.agree(wanted, wanted)
    with pytest.raises(AssertionError, match="Not yet: a claim") as wrong:
        lesson.examine("a claim", got, lambda given: lesson.agree(given, wanted, "so far"))
    sys.modules.pop("lesson", None)
    assert f"so far: {words}" in str(wrong.value)


def test_by_hand_means_without_a_convolution(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import lesson

    asked = [p.stem[:2] for p in LESSONS if 'without("conv", ' in p.read_text(encoding="utf-8")]
    assert asked == ["02", "05", "13"]
    x, w, b = torch.ones(1, 3, 4, 4), torch.ones(2, 3, 1, 1), torch.ones(2)
    assert lesson.without("conv", lambda x, w, b: (x * w[0]).sum(1) + b[0], x, w, b)
    given = torch.nn.functional.conv2d
    with pytest.raises(AssertionError, match="calls conv2d; this time"):
        lesson.examine("a claim", given, lambda f: lesson.without("conv", f, x, w, b))
    sys.modules.pop("lesson", None)


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_it_says_what_it_teaches_what_it_needs_and_how_long_it_takes(path):
    head = "\n".join(jupytext.read(path).cells[0].source.split("\n"))
    for words in ("**Question.**", "**After this lesson you can**", "**You need**", "**Time**: "):
        assert words in head
    whole, *parts = map(int, re.findall(r"\d+", head.split("**Time**: ")[1].split("\n\n")[0]))
    assert sum(parts) == whole


def stray(outputs):
    """What a reader did not ask for: warnings, and the repr of what a cell happened to end with."""
    return [
        o
        for o in outputs
        if (o["output_type"] == "stream" and o["name"] == "stderr")
        or (o["output_type"] == "execute_result" and list(o["data"]) == ["text/plain"])
    ]


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_nothing_is_shown_that_was_not_asked_for(path):
    book = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert [o for c in book["cells"] for o in stray(c.get("outputs", []))] == []


def test_stray_outputs_are_found():
    warning = {"output_type": "stream", "name": "stderr", "text": "UserWarning"}
    generator = {"output_type": "execute_result", "data": {"text/plain": "<torch._C.Generator>"}}
    picture = {"output_type": "execute_result", "data": {"image/png": "", "text/plain": "<Figure>"}}
    assert stray([warning, generator, picture]) == [warning, generator]


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_it_asks_for_a_guess_and_draws(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"\*\*[Gg]uess", text)
    assert re.search(r"\bdraw\.|\b(show|panels|matrices|curves)\(", text)


@pytest.fixture
def editions(monkeypatch):
    """The module that makes every form of a lesson."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import importlib

    yield importlib.import_module("editions")
    sys.modules.pop("editions", None)


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_the_chinese_lesson_has_the_english_code_answers_and_formulas(path, editions):
    english = editions.notebook(path)
    other = editions.languages(path, english)["zh"]
    same = [cell.cell_type for cell in english.cells] == [cell.cell_type for cell in other.cells]
    assert same
    for one, two in zip(english.cells, other.cells, strict=True):
        if one.cell_type == "code":
            assert one.source == two.source
            continue
        assert editions.BLOCK.findall(one.source) == editions.BLOCK.findall(two.source)
        assert one.source.count("<details>") == two.source.count("<details>")
        assert one.source.count("$$") == two.source.count("$$")
        text = re.sub(
            r"```.*?```|`[^`]*`|<[^>]*>|\\[.*?\\]|\\$.*?\\$", "", two.source, flags=re.DOTALL
        )
        assert len(re.findall("[\u4e00-\u9fff]", text)) > len(text) // 8


def test_a_chinese_lesson_that_lags_behind_is_found(editions):
    book = editions.notebook(LESSONS[0])
    longer = editions.notebook(LESSONS[0])
    longer.cells.append(longer.cells[0])
    with pytest.raises(ValueError, match="parts as in English"):
        editions.chinese(LESSONS[0], longer)
    book.cells[-2].source = "No exercise any more."
    with pytest.raises(ValueError, match="fold of an exercise"):
        editions.chinese(LESSONS[0], book)


def test_the_explorer_opens_what_the_table_of_lessons_says(editions):
    scenes = Path(cg.__file__).with_name("explorer").joinpath("js", "scenes.js").read_text("utf-8")
    known = re.findall(r"^  (\w+): \{$", scenes.partition("export const LESSONS")[2], re.MULTILINE)
    assert "messages" in known
    assert set(editions.EXPLORER) <= set(NAMES)
    for path in LESSONS:
        book = editions.notebook(path)
        if path.stem[:2] in editions.EXPLORER:
            assert editions.EXPLORER[path.stem[:2]][1] in known
            opened = editions.with_explorer(book, path.stem[:2], "a title")
            frames = [cell.source for cell in opened.cells if "<iframe" in cell.source]
            assert len(frames) == 1
            assert "{" not in frames[0].partition("<iframe")[2]


def test_copies_to_work_in_have_no_outputs_and_keep_what_a_student_wrote(tmp_path, editions):
    editions.lab(tmp_path)
    books = sorted(tmp_path.rglob("*.ipynb"))
    assert len(books) == 2 * len(LESSONS)
    assert [path.name for path in tmp_path.rglob("*.py")] == ["lesson.py"] * 2
    for path in books:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not [cell for cell in cells if cell.get("outputs")]
    books[0].write_text("mine", encoding="utf-8")
    editions.lab(tmp_path)
    assert books[0].read_text(encoding="utf-8") == "mine"


def test_slides_begin_at_every_heading(tmp_path, editions, monkeypatch):
    pytest.importorskip("nbconvert", reason="slides need the extra `notebooks`")
    monkeypatch.setattr(editions, "texts", lambda chosen=None: LESSONS[:1])
    editions.slides(tmp_path)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [f"{LESSONS[0].stem}-zh.slides.html", f"{LESSONS[0].stem}.slides.html"]
    headings = sum("## " in f"\n{c.source}" for c in jupytext.read(LESSONS[0]).cells)
    text = (tmp_path / found[1]).read_text(encoding="utf-8")
    assert text.count("<section>") >= headings


# Every figure of the article that the project began from, and the words of the check that holds it.
FIGURES = {
    "02": [
        "one channel: a 1 x 1 kernel is one number",
        "take the neighbours away: 1 x 1 does not notice",
        "exactly one edge per node", "ten 1 x 1 layers: one pixel",
        "the best 3 x 3 kernel is the contour filter itself",
        "100 random 1 x 1 networks say the same twice",
    ],
    "03": [
        "the weights of luminance sum to one", "red minus green of grey is exactly zero",
        "the sum of the channels cannot tell A from B", "channel 1 minus channel 2 can",
        "and the recipe it found has opposite signs: a difference",
    ],
    "05": [
        "counted cost is the formula", "the saving at k = 3, 192 -> 384 is 0.8863",
        "at k = 3 about a ninth is left", "at k = 5 the saving is larger",
    ],
    "06": ["min(C_out, C_in k^2)", "min(C_out, C_in)", "both read more than 95 % of the digits"],
    "07": [
        "a grouped layer is a full layer with zeros outside of the blocks",
        "one mixer between two walls reaches everybody", "12 -> 4 -> 12 has rank 4",
        "a shuffle is a 1 x 1 convolution with a permutation for weights",
    ],
    "08": [
        "queries, keys and values are a graph of self-loops",
        "gating the nodes is gating the image",
        "nine heads reproduce the nine taps",
    ],
    "09": ["whitening, then length, is the textbook formula bit for bit"],
    "16": ["the row of steps is proven equal to its dense twin"],
}  # fmt: skip


@pytest.mark.parametrize(("number", "claims"), FIGURES.items(), ids=list(FIGURES))
def test_the_figures_of_the_article_are_asserted_cells(number, claims):
    (path,) = [p for p in LESSONS if p.stem.startswith(number)]
    text = path.read_text(encoding="utf-8")
    page = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")
    for claim in claims:
        assert claim in text
        assert claim in page


# A planted change in the library, and the lessons that speak of what it breaks.


def flipped_taps(monkeypatch):
    """Tap t reads where tap k - 1 - t should."""
    honest = KernelGeometry.axis_sources
    monkeypatch.setattr(
        KernelGeometry, "axis_sources", lambda self, axis, size: honest(self, axis, size)[:, ::-1]
    )


def swapped_axes(monkeypatch):
    """An image comes back with height and width swapped."""
    honest = PixelGraph.to_image
    monkeypatch.setattr(
        PixelGraph, "to_image", lambda self, fill=0.0: honest(self, fill).transpose(-1, -2)
    )


def deaf(monkeypatch):
    """Every sum is off by one."""
    for backend in (dense, gather, messages):
        honest = backend.conv
        monkeypatch.setattr(
            backend, "conv", lambda *args, honest=honest, **kw: honest(*args, **kw) + 1
        )
    short = prepared.convolved

    def off(*args):
        found = short(*args)
        return None if found is None else found.with_x(found.x + 1)

    monkeypatch.setattr(prepared, "convolved", off)


def certain(monkeypatch):
    """Everything is called undecided."""
    honest = cg.prove

    def unsure(*args, **kwargs):
        from dataclasses import replace

        return replace(honest(*args, **kwargs), verdict="undecided", reason="planted")

    monkeypatch.setattr(cg, "prove", unsure)


def forgotten_tile(monkeypatch):
    """The last tile is not run."""
    honest = Tiling.parts
    monkeypatch.setattr(Tiling, "parts", lambda *asked: iter(list(honest(*asked))[:-1]))


def mirrored_world(monkeypatch):
    """Behind the border of a torus comes the same border again."""
    right = charts.folded
    other = {"circular": "reflect"}
    monkeypatch.setattr(charts, "folded", lambda q, n, mode: right(q, n, other.get(mode, mode)))
    forget()


FAULTS = [
    (swapped_axes, "01"), (flipped_taps, "01"), (deaf, "02"), (swapped_axes, "02"), (deaf, "03"),
    (certain, "03"), (flipped_taps, "04"), (deaf, "04"), (certain, "04"), (deaf, "05"),
    (deaf, "06"), (deaf, "07"), (deaf, "08"), (deaf, "09"), (certain, "10"), (certain, "11"),
    (deaf, "12"), (swapped_axes, "12"), (deaf, "13"), (certain, "13"), (forgotten_tile, "15"),
    (mirrored_world, "14"), (certain, "14"), (certain, "16"),
]  # fmt: skip


def test_every_lesson_is_broken_by_a_fault():
    assert {number for _, number in FAULTS} == set(NAMES)


@pytest.mark.parametrize("page", ["docs/lessons.md", "docs/zh/lessons.md"])
def test_every_lesson_is_in_the_table(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = [f"| {int(path.stem[:2])} | [" in text for path in LESSONS]
    assert (
        rows == [f"](lessons/{path.stem}.md) |" in text for path in LESSONS] == [True] * len(rows)
    )


DEAR = ("03", "13")
"""Lessons that prove much before they meet this fault: CI asks for it, and `deaf` everywhere."""


@pytest.mark.parametrize(
    ("fault", "number"),
    [pytest.param(f, n, marks=[pytest.mark.ci] * (f is certain and n in DEAR)) for f, n in FAULTS],
    ids=[f"{f.__name__}-{n}" for f, n in FAULTS],
)
def test_a_broken_library_breaks_the_lesson(fault, number, run, monkeypatch):
    fault(monkeypatch)
    try:
        with pytest.raises(AssertionError, match="This is not true here"):
            run(number)
    finally:
        forget()  # nothing made with the fault serves another lesson
