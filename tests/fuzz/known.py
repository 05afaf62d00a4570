"""What the attacks found, asked again first."""

from tests.fuzz.geometries import Draw


def _conv(
    size: tuple[int, ...], channels: tuple[int, int], kernel: tuple[int, ...],
    stride: tuple[int, ...], padding: tuple[int, ...], *, dilation: tuple[int, ...] = (),
    groups: int = 1, bias: bool = True, batch: int = 3, density: float | None = None,
    transposed: bool = False, frozen: str = "",
) -> Draw:  # fmt: skip
    options = {
        "in_channels": channels[0],
        "out_channels": channels[1],
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation or (1,) * len(size),
        "groups": groups,
        "bias": bias,
    }
    return Draw(len(size), transposed, batch, size, tuple(options.items()), density, 0, "", frozen)


GEOMETRIES = [
    # no pixel is heard along the last axis: SIGSEGV
    _conv((7, 1), (1, 2), (1, 1), (1, 3), (4, 2), dilation=(1, 3)),
    _conv((3, 1), (16, 32), (1, 1), (4, 2), (0, 1), groups=2),
    _conv((4, 6, 1), (2, 4), (2, 7, 1), (3, 1, 4), (0, 1, 6), dilation=(3, 1, 3)),
    _conv((1, 1), (16, 8), (1, 1), (1, 4), (0, 3), density=0.9),
    # one channel a group, output width 1: wrong on AVX-512
    _conv((9, 4), (1, 4), (3, 3), (1, 2), (1, 0), batch=8),
    _conv((7, 5), (1, 4), (2, 7), (1, 3), (0, 2), dilation=(3, 1), density=0.2),
    _conv((2, 7, 7), (1, 4), (5, 3, 7), (3, 1, 2), (3, 6, 0), density=0.9),
    _conv((9, 4), (4, 8), (3, 3), (1, 2), (1, 0), groups=4),
    _conv((9, 1), (1, 1), (5, 7), (1, 3), (1, 3), dilation=(2, 1), bias=False, transposed=True),
    _conv((9, 1), (16, 1), (7, 7), (1, 3), (2, 2), dilation=(3, 1), bias=False, transposed=True),
    # a volume no deeper than its padding: wrong or abort on AVX-512
    _conv((3, 2, 5), (48, 12), (7, 2, 1), (3, 2, 4), (6, 0, 0), groups=3),
    _conv((3, 7, 1), (6, 16), (5, 2, 3), (2, 1, 2), (3, 1, 2), dilation=(1, 1, 2), groups=2),
    # the padding of its depth is more than the stride, and no multiple of it
    _conv((4, 7, 4), (8, 16), (5, 3, 3), (2, 2, 3), (3, 0, 1), groups=8, density=0.5),
    # a strided 1x1 of few channels: abort on AVX2, and on AVX-512
    _conv((32, 32), (4, 8), (1, 1), (2, 2), (0, 0), batch=32),
    _conv((64, 64), (8, 16), (1, 1), (2, 2), (0, 0), batch=8),
    _conv((32, 4), (2, 1), (1, 1), (1, 2), (0, 0), dilation=(3, 1)),
    _conv((32, 1), (4, 1), (1, 1), (4, 1), (0, 0), density=0.2),
    _conv((32, 4), (3, 1), (1, 1), (2, 2), (0, 0), density=0.2, transposed=True),
    _conv((7, 4), (2, 1), (1, 1), (2, 1), (0, 0), batch=32, bias=False, transposed=True),
    _conv((7, 4), (1, 3), (1, 1), (2, 2), (0, 0), density=0.9, batch=2, transposed=True),
    _conv((16, 4), (16, 2), (1, 1), (1, 2), (0, 0), groups=2, batch=32),
    # the same where the bias alone learns
    _conv((40, 40), (15, 16), (1, 1), (1, 2), (0, 0), batch=8, frozen="weight"),
    _conv((40, 40), (7, 32), (1, 1), (2, 1), (0, 0), batch=8, frozen="weight"),
]
"""Crashes and wrong numbers of oneDNN's kernels for channels-last images."""
