"""The premise: a candidate is multilinear in its data, whatever its code does."""
