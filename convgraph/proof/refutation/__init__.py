"""After a refutation: the smallest counterexample and its likely cause."""
