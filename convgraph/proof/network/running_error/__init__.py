"""How far a network's floating-point values can be off, one operator at a time."""
