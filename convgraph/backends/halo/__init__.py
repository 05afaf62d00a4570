"""Backend `halo`: charts with a margin of their neighbours' pixels, then torch's dense kernels."""
