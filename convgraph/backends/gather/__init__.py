"""Edge lists sorted by tap or laid out by tap, and one product a tap."""
