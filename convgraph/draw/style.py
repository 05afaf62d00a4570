"""What all pictures share: colours for taps, light and dark, an Axes, an image to draw over.

matplotlib comes with the extra `viz` and is imported when something is drawn.
"""

from typing import TYPE_CHECKING

import torch

from convgraph.door import door
from convgraph.errors import MissingExtraError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.pixel_graph import PixelGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's hues, which stay apart under the common forms of colour blindness, each as dark as
# it must be to stand 3 : 1 from a white page and from a dark one. The explorer has the same.
PALETTE = (
    "#0072B2", "#C77700", "#009E73", "#D55E00", "#3D97CF", "#C2699A", "#938600", "#AC5088",
)  # fmt: skip
LIGHT, DARK = {"ink": "#1a1a1a", "page": "#ffffff"}, {"ink": "#f0f0f0", "page": "#14161a"}

RIM = "#1a1a1a"


@door
def tap_colours(geometry: KernelGeometry) -> list[str]:
    """Return one colour per tap; the self-loop, if there is one, is grey.

    Example:
        >>> len(set(tap_colours(KernelGeometry(3, padding=1))))
        9
    """
    colours, used = [], 0
    for offset in geometry.offsets:
        if not offset.any():
            colours.append("#808080")
        else:
            colours.append(PALETTE[used % len(PALETTE)])
            used += 1
    return colours


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is due.

    Example:
        >>> counted(1, "hop"), counted(2, "hop")
        ('1 hop', '2 hops')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def axes_in(ax: "Axes | None", dark: bool | None) -> tuple["Axes", dict[str, str]]:
    """Return where to draw and in which colours; `dark=None` follows matplotlib's own settings."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "drawing needs matplotlib, which the base install leaves out; install it with: "
            "pip install matplotlib"
        ) from error
    style = {"ink": rcParams["text.color"], "page": rcParams["axes.facecolor"]}
    if dark is not None:
        style = DARK if dark else LIGHT
    if ax is None:
        ax = Figure(figsize=(6, 6), facecolor=style["page"], layout="constrained").subplots()
    ax.set_facecolor(style["page"])
    return ax, style


def show_image(axes: "Axes", graph: PixelGraph) -> None:
    """Paint the image, paled so that the edges stand out; absent pixels stay the page's colour."""
    pixels = graph.to_image(fill=float("nan")).detach().cpu().float()
    image = pixels.squeeze(0) if pixels.dim() == 4 else pixels
    shown = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    most = float(shown.nan_to_num(0).max()) if shown.numel() else 0.0
    shown = 0.35 + 0.65 * (shown / max(most, 1.0)).clamp(0, 1)
    alpha = (~image[:1].isnan()).float()
    rgba = torch.cat([shown.nan_to_num(0), alpha]).movedim(0, -1).numpy()
    axes.imshow(rgba, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
