"""Published networks through the converter: `make zoo`."""
