"""What only compares: programs followed by what is known of the order of their entries."""
