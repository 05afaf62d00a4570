"""What the notebooks share: checks that can fail, answers to fold out, pictures side by side."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, display
from torch import Tensor


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


def answer(text: str) -> None:
    """Show an answer that stays folded until the reader has guessed."""
    display(HTML(f"<details><summary><b>Answer</b> (guess first)</summary><p>{text}</p></details>"))


def panels(count: int, width: float = 3.6, height: float = 3.6) -> Any:
    """Return `count` matplotlib Axes side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained")
    return axes if count > 1 else [axes]


def show(images: Sequence[Tensor], titles: Sequence[str], *, cmap: str = "gray") -> None:
    """Show images (C, H, W) or (H, W) side by side; one channel is grey."""
    for axes, image, title in zip(panels(len(images)), images, titles, strict=True):
        picture = image.detach().cpu()
        picture = picture.movedim(0, -1) if picture.dim() == 3 else picture
        axes.imshow(picture.squeeze(-1), cmap=cmap)
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    plt.show()


def photograph(size: int = 128) -> Tensor:
    """Return the astronaut of scikit-image, (3, size, size) in [0, 1]."""
    from skimage import data

    pixels = torch.from_numpy(data.astronaut()).movedim(-1, 0) / 255
    step = 512 // size
    return pixels[:, ::step, ::step].contiguous()
