"""One layer on trial: structure, premise, identity, rounding."""
