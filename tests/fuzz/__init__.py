"""Random attacks: bounded, seeded, each draw in a child that may die. `make fuzz` runs them all."""
