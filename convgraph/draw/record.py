"""A certificate as a picture: how much of its bound each quantity used, on a logarithmic axis."""

from typing import TYPE_CHECKING

from convgraph.door import door
from convgraph.draw.style import PALETTE, axes_in
from convgraph.proof import Certificate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@door
def certificate(cert: Certificate, *, ax: "Axes | None" = None, dark: bool | None = None) -> "Axes":
    """Draw error / bound of every quantity of a certificate; 1 is the bound.

    Args:
        cert: what `convgraph.prove` returned.
        ax: where to draw; None makes a figure.
        dark: colours for a dark page or a light one; None follows matplotlib's own.

    Returns:
        The Axes; its title is the verdict.

    Example:
        >>> import torch, convgraph as cg
        >>> conv = torch.nn.Conv2d(1, 1, 3)
        >>> cert = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5))
        >>> certificate(cert).get_title().splitlines()[0]
        'proven'
    """
    axes, style = axes_in(ax, dark)
    rows = list(cert.rho) or list(cert.rho_exact)
    least = 1e-6
    for at, name in enumerate(rows):
        for shift, found, colour, marker in (
            (-0.14, cert.rho.get(name), PALETTE[0], "o"),
            (0.14, cert.rho_exact.get(name), PALETTE[3], "D"),
        ):
            if found is None:
                continue
            place = max(found, least)
            axes.plot([least, place], [at + shift] * 2, color=colour, lw=2.5)
            axes.plot([place], [at + shift], marker=marker, color=colour, ls="")
            words = "0, exact" if found == 0 else f"{found:.2g}"
            clear = 1 if 0.02 < place < 1 else place  # no number lies on the line at 1
            axes.annotate(
                words, (clear, at + shift), xytext=(7, 0), textcoords="offset points",
                va="center", fontsize=8, color=style["ink"],
                            )  # fmt: skip
    axes.axvline(1, color=style["ink"], lw=1.5, ls="--")
    axes.set_xscale("log")
    axes.set_xlim(least, 30)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(colors=style["ink"])
    axes.set_xlabel(
        "largest error / derived bound\ncircle: against the reference, diamond: against the oracle",
        color=style["ink"], fontsize=8,
    )  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(style["ink"])
    sure = f", wrong with probability at most 2^{cert.log2_epsilon:.0f}" if cert.trials else ""
    axes.set_title(
        f"{cert.verdict}\n{cert.dtype} on {cert.device}{sure}", color=style["ink"], fontsize=10
    )
    return axes
