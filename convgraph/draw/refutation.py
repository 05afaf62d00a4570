"""A refutation as a picture: the offending edges between the pixels and the output sites."""

from typing import TYPE_CHECKING, Any

from convgraph.door import door
from convgraph.draw.style import PALETTE, axes_in
from convgraph.proof import Counterexample

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@door
def counterexample(
    found: Counterexample, *, ax: "Axes | None" = None, dark: bool | None = None
) -> "Axes":
    """Draw the offending edges of a refutation: pixels on the left, output sites on the right.

    Solid arrows are what the equation says, dashed ones are where the messages went instead. Of
    three axes the last two are shown.

    Args:
        found: what `convgraph.proof.explain_refutation` returned.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

    Returns:
        The Axes; its title is the likely cause.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    axes, style = axes_in(ax, dark)
    shown = (*found.edges, *found.found_edges)
    size = _plane(found.spec["size"], missing=1)
    sites = [_plane(edge.target) for edge in shown]
    out = tuple(max([at[i] + 1 for at in sites], default=1) for i in range(2))
    gap = size[1] + 1.5
    _lattice(axes, size, 0.0, style["ink"], "pixels")
    _lattice(axes, (int(out[0]), int(out[1])), gap, style["ink"], "output sites")
    for edges, colour, line, what in (
        (found.edges, PALETTE[2], "-", "the equation"),
        (found.found_edges, PALETTE[3], "--", f"the {found.side}"),
    ):
        for number, edge in enumerate(edges):
            source, target = _plane(edge.source), _plane(edge.target)
            axes.annotate(
                "", (gap + target[1], target[0]), (source[1], source[0]),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "ls": line},
            )  # fmt: skip
            taps = ", ".join(str(t) for t in edge.tap)
            label = f"{what}: tap ({taps}), image {edge.image}" if number == 0 else None
            axes.plot([], [], line, color=colour, lw=2, label=label)
    axes.set_xlim(-1, gap + out[1])
    axes.set_ylim(max(size[0], out[0]) - 0.2, -1.2)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(found.cause or "the cause is none of the known ones", color=style["ink"])
    if shown:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False, labelcolor=style["ink"]
        )
    return axes


def _plane(place: Any, missing: int = 0) -> tuple[int, int]:
    """The last two entries; `missing` stands for the height of an image of one axis."""
    rows = (missing, *place)[-2:]
    return int(rows[0]), int(rows[1])


def _lattice(axes: "Axes", size: tuple[int, int], left: float, ink: str, name: str) -> None:
    """A grid of dots with its name above."""
    rows, columns = max(size[0], 1), max(size[1], 1)
    places = [(left + c, r) for r in range(rows) for c in range(columns)]
    axes.scatter([x for x, _ in places], [y for _, y in places], s=60, color=ink, zorder=3)
    axes.text(left + (columns - 1) / 2, -0.7, name, ha="center", color=ink)
