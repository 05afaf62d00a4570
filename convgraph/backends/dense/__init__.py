"""Full grids are images: torch's own kernels."""
