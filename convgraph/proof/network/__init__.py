"""A network on trial: what each side computed, matched node by node."""
