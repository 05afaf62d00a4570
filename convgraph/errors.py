"""Every exception that convgraph raises on purpose.

All of them derive from `ConvgraphError`, and each also derives from the built-in exception that a
PyTorch user would expect, so that existing `except ValueError` code keeps working. This module
imports nothing.
"""


class ConvgraphError(Exception):
    """Base class of every error that convgraph raises on purpose."""


class GeometryError(ConvgraphError, ValueError):
    """The integers of a kernel do not describe an operator, or do not fit the lattice."""


class GraphError(ConvgraphError, ValueError):
    """An image, a mask or a set of sites does not describe a pixel graph."""


class ShapeError(ConvgraphError, ValueError):
    """A tensor has another shape than the operator needs."""


class DtypeError(ConvgraphError, TypeError):
    """A tensor has a dtype that the operator cannot take, or two dtypes differ."""


class DeviceError(ConvgraphError, RuntimeError):
    """Tensors that must share one device do not."""


class EdgeError(ConvgraphError, IndexError):
    """An edge names a node or a tap that does not exist."""


class ArgumentError(ConvgraphError, TypeError, ValueError):
    """An argument is of another kind than the call takes, or does not go with the others.

    It also derives from what Python or torch raised about it without words, which is its cause.
    """


class BackendError(ConvgraphError, RuntimeError):
    """A backend was forced that cannot serve the case; the text says why."""


class UnsupportedError(ConvgraphError, NotImplementedError):
    """An argument that torch knows and convgraph refuses; the text names the argument."""


class ConversionError(ConvgraphError, ValueError):
    """A module or a record cannot be converted without changing its meaning."""


class ProofError(ConvgraphError, ValueError):
    """A proof was asked for that cannot be carried out as asked."""


class MissingExtraError(ConvgraphError, ImportError):
    """An optional dependency is missing; the text names the extra to install."""
