"""What the notebooks share: checks that can fail, an examiner for exercises, and pictures.

Pictures have no page of their own and ink that can be read on a light and on a dark one; each is
shown with a text for whoever cannot see it.
"""

import dis
import functools
import reprlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convgraph.draw import PALETTE

BRIEF = reprlib.Repr()
BRIEF.maxother, BRIEF.maxstring, BRIEF.maxlist = 200, 100, 40
INK = "#757575"
COLOURS = (PALETTE[0], PALETTE[3], PALETTE[2])
MARK = PALETTE[3]

plt.rcParams.update(
    {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "none"),
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
        "font.size": 12,
        "axes.titlesize": 12,
        "figure.dpi": 110,
        "legend.framealpha": 0,
    }
)


def check(claim: str, holds: Any) -> None:
    """Say that a claim holds, or stop the lesson.

    Args:
        claim: one sentence.
        holds: what decides, a bool or a tensor of one.

    Raises:
        AssertionError: it does not hold.
    """
    if not bool(holds):
        raise AssertionError(f"This is not true here: {claim}")
    print(f"\N{CHECK MARK} {claim}")


class NotYet(BaseException):
    """A function of an exercise that is still empty was called; nothing on the way may catch it."""


class Wrong(AssertionError):
    """An answer that does not hold; a notebook shows what is said of it and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).split("\n")


def examine(claim: str, answer: Any, holds: Callable[[Any], Any]) -> None:
    """Mark an exercise: solved, not yet begun, or wrong, with what tells.

    Args:
        claim: what a right answer does, one sentence.
        answer: what the student wrote: a number, a kernel, a layer or a function; `...` where
            nothing is written yet.
        holds: decides about the answer; returns a bool, a tensor of one, or a certificate.

    Raises:
        Wrong: the answer is wrong. Where a certificate decided, it says what is different; where the
            answer could not be tried at all, what stopped it and in which line.
    """
    given = "" if callable(answer) else f"\nYour answer: {_brief(answer)}"
    try:
        found = ... if answer is ... else holds(_watched(answer))
    except NotYet:
        found = ...
    except Wrong as wrong:
        raise Wrong(f"Not yet: {claim}\n{wrong}") from None
    except Exception as error:  # of any kind: a student's answer may be anything
        stopped = f"{type(error).__name__}: {error}{_line(error, answer)}"
        raise Wrong(f"Not yet: {claim}\nYour answer could not be tried: {stopped}{given}") from error
    if found is ...:
        print(f"\N{WHITE CIRCLE} your turn: {claim}")
        return
    verdict = getattr(found, "verdict", None)
    if verdict not in (None, "proven"):
        raise Wrong(f"Not yet: {claim}\nThe judge says {_why(found)}")
    if verdict is None and not bool(found):
        raise Wrong(f"Not yet: {claim}{given}")
    by = "" if verdict is None else " (proven for every image and every weight)"
    print(f"\N{HEAVY CHECK MARK} solved: {claim}{by}")


def agree(got: Any, wanted: Any, what: str = "") -> bool:
    """Return True if what an answer gives is what it should be, to the last bit.

    Args:
        got: a tensor, a number, a word, or several of them in a list, a tuple or a dict.
        wanted: of the same kind.
        what: is compared, in a few words.

    Raises:
        Wrong: it is not; says where, and what it should be there. Of a number it says only whether it
            is too small or too large, for it may be the answer itself.
    """
    found = _difference(got, wanted)
    if found:
        raise Wrong(f"{what}: {found}" if what else found)
    return True


def _difference(got: Any, wanted: Any) -> str:
    """Say what is different, or nothing."""
    if isinstance(wanted, Tensor):
        return _different_entry(got, wanted)
    if isinstance(wanted, Mapping):
        parts = ((name, _difference(got[name], wanted[name])) for name in wanted)
        return next((f"{name}: {found}" for name, found in parts if found), "")
    if isinstance(wanted, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(wanted):
            return f"{len(wanted)} values are asked for, not {_brief(got)}."
        parts = enumerate(map(_difference, got, wanted), 1)
        return next((f"number {n} of {len(wanted)}: {found}" for n, found in parts if found), "")
    if isinstance(wanted, (bool, str)):
        return "" if got == wanted else f"it is {got}, and should be {wanted}."
    if not isinstance(got, (int, float, Tensor)):
        return f"a number is asked for, not {_brief(got)}."
    return "" if got == wanted else f"{_brief(got)} is too {'small' if got < wanted else 'large'}."


def _different_entry(got: Any, wanted: Tensor) -> str:
    if not isinstance(got, Tensor):
        return f"a tensor is asked for, not {_brief(got)}."
    if got.shape != wanted.shape:
        return f"its shape is {tuple(got.shape)}, and should be {tuple(wanted.shape)}."
    if got.dtype != wanted.dtype:
        return f"its dtype is {got.dtype}, and should be {wanted.dtype}."
    apart = got != wanted
    if not apart.any():
        return ""
    place = apart.nonzero()[0].tolist()
    one, other = (part.detach()[tuple(place)].item() for part in (got, wanted))
    digits = next(n for n in (4, 9, 17) if n == 17 or f"{one:.{n}g}" != f"{other:.{n}g}")
    return (
        f"at {place} it is {one:.{digits}g}, and should be {other:.{digits}g}; "
        f"{int(apart.sum())} of {apart.numel()} entries differ."
    )


def _brief(answer: Any) -> str:
    """An answer as it is told, not longer than a few lines."""
    if isinstance(answer, Tensor) and answer.numel() > 36:
        return f"a tensor of shape {tuple(answer.shape)}"
    return repr(answer) if isinstance(answer, Tensor) else BRIEF.repr(answer)


def without(word: str, function: Callable[..., Any], *args: Any) -> bool:
    """Run a function once; return True if it calls nothing of torch that has a word in its name.

    Raises:
        Wrong: it does.
    """

    class Listening(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if word in name:
                raise Wrong(f"It calls {name}; this time find a way without.")
            return func(*args, **(kwargs or {}))

    with Listening():
        function(*args)
    return True


def _watched(answer: Any) -> Any:
    """Return a function that notices when the one it stands for is still empty."""
    if not isinstance(answer, FunctionType):
        return answer

    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = answer(*args, **kwargs)
        if result is ... or (result is None and _is_empty(answer)):
            raise NotYet
        if result is None:
            raise Wrong(f"{answer.__name__} returns nothing; is `return` missing?")
        return result

    return call


def _is_empty(function: FunctionType) -> bool:
    """Whether a function does nothing at all, as an exercise's does before it is begun."""
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "POP_TOP"}
    return {step.opname for step in dis.get_instructions(function)} <= idle


def _line(error: Exception, answer: Any) -> str:
    """Say in which line of the student's own function something stopped."""
    code = getattr(answer, "__code__", None)
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    return f"\nin line {lines[-1] - code.co_firstlineno + 1} of {code.co_name}" if lines else ""


def _why(cert: Any) -> str:
    """The verdict, and what tells: the smallest case has it all where there is one."""
    told = cert.smallest_case or cert.reason
    return ": ".join(filter(None, (cert.verdict, cert.cause))) + (f"\n{told}" if told else "")


def picture(figure: Any, alt: str) -> None:
    """Show a figure once, with words for whoever cannot see it.

    Args:
        figure: a matplotlib Figure, or Axes of one.
        alt: what there is to see, one or two sentences.
    """
    from IPython.display import display

    figure = getattr(figure, "figure", figure)
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def frame(axes: Any, row: int, column: int, size: int) -> None:
    """Frame a square of pixels of a shown image by its upper left corner."""
    place = (column - 0.5, row - 0.5)
    axes.add_patch(plt.Rectangle(place, size, size, fill=False, ec=MARK, lw=2.5))


def panels(count: int, width: float = 3.6, height: float = 3.6) -> Any:
    """Return `count` matplotlib Axes side by side; more than 7.4 inches would be scaled down."""
    figure, axes = plt.subplots(
        1, count, figsize=(min(width * count, 7.4), height), layout="constrained"
    )
    return axes if count > 1 else [axes]


def show(
    images: Sequence[Tensor],
    titles: Sequence[str],
    alt: str,
    *,
    signed: bool = False,
    grid: bool = False,
    mark: tuple[int, int] | None = None,
) -> None:
    """Show images (C, H, W) or (H, W) side by side; one channel is grey.

    Args:
        images: values in [0, 1] where they have three channels.
        titles: one each.
        alt: what there is to see.
        signed: of one channel: white is zero, purple is below, orange above, and a bar says how far.
        grid: draw a line between any two pixels.
        mark: frame the pixel in this row and column.
    """
    row = panels(len(images), height=7.4 / max(len(images), 2) + 0.5)
    most = max(float(image.abs().max()) for image in images) if signed else 0.0
    for axes, image, title in zip(row, images, titles, strict=True):
        pixels = image.detach().cpu()
        pixels = (pixels.movedim(0, -1) if pixels.dim() == 3 else pixels).squeeze(-1)
        if signed:
            shown = axes.imshow(pixels, cmap="PuOr_r", vmin=-most, vmax=most)
        else:
            axes.imshow(pixels.clamp(0, 1) if pixels.dim() == 3 else pixels, cmap="gray")
        if grid:
            _lines(axes, *pixels.shape[:2])
        if mark:
            frame(axes, *mark, size=1)
        axes.set_title(title, fontsize=12 if len(images) < 3 else 10)
        axes.set_xticks([])
        axes.set_yticks([])
    if signed:  # one scale for all: what is nearly zero beside the others looks like zero
        row[0].figure.colorbar(shown, ax=list(row), shrink=0.75)
    picture(row[0], alt)


def matrices(named: Mapping[str, Tensor], alt: str, *, row: str, column: str) -> None:
    """Show matrices side by side, white for 0 and dark for the largest, with their axes named."""
    axes_of = panels(len(named), height=7.4 / max(len(named), 2) + 0.7)
    for axes, (title, matrix) in zip(axes_of, named.items(), strict=True):
        axes.imshow(matrix.detach().cpu().double(), cmap="Blues", vmin=0)
        _lines(axes, *matrix.shape)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)  # there is no channel 2.5
        axes.set_title(title, fontsize=12 if len(named) < 3 else 10)
        axes.set(xlabel=column, ylabel=row)
    picture(axes_of[0], alt)


def curves(
    named: Mapping[str, Any],
    alt: str,
    *,
    x: str,
    y: str,
    at: Sequence[float] | None = None,
    log: bool = False,
    dots: bool = False,
) -> None:
    """Draw one line for each name, in colours and strokes that stay apart; `at` are its places."""
    (axes,) = panels(1, 7.2, 3.6)
    for (name, values), colour, stroke in zip(
        named.items(), COLOURS, ("-", "--", ":"), strict=False
    ):
        places = range(len(values)) if at is None else at
        axes.plot(
            places, values, label=name, color=colour, ls=stroke, lw=2.2, marker="." if dots else ""
        )
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    if at is not None and at[-1] >= 100 * at[0]:
        axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    if len(named) > 1:
        axes.legend()
    picture(axes, alt)


def bars(named: Mapping[str, float], alt: str, *, x: str, most: float = 1.0) -> None:
    """Draw one bar for each name with its share written beside it."""
    (axes,) = panels(1, 7.2, 0.5 * len(named) + 0.9)
    names = list(named)[::-1]
    found = axes.barh(names, [named[n] for n in names], color=COLOURS[0])
    axes.bar_label(found, [f" {named[n]:.0%}" for n in names])
    axes.set(xlim=(0, most * 1.12), xlabel=x)
    picture(axes, alt)


def photograph(size: int = 128) -> Tensor:
    """Return the astronaut of scikit-image, (3, size, size) in [0, 1]; size divides 512.

    A pixel is the mean of those it stands for: every fourth one would make a jagged picture.
    The photograph is NASA's, in the public domain.
    """
    from skimage import data

    if size < 1 or 512 % size:
        raise ValueError(f"photograph: expected a size that divides 512, got {size}; try 64 or 128")
    pixels = torch.from_numpy(data.astronaut()).movedim(-1, 0).float() / 255
    return torch.nn.functional.avg_pool2d(pixels, 512 // size)


def _lines(axes: Any, rows: int, columns: int) -> None:
    axes.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
    axes.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
    axes.grid(which="minor", color="#999999", lw=0.5)
    axes.tick_params(which="minor", length=0)
