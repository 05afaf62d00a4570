"""Backend `resample`: what every tap reads between pixels is laid side by side, then multiplied."""
