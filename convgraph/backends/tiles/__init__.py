"""The lattice in equal tiles; only those that hold a site are computed."""
