"""Who talks to whom along each axis, in integers."""

from convgraph.geometry.kernel import KernelGeometry

__all__ = ["KernelGeometry"]
