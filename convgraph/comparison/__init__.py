"""What is put before the judge: layers, networks, names, and how each side is called."""
