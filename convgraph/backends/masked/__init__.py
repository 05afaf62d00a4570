"""Rows laid out as an image with zeros in its holes."""
