"""The convolution in plain integers, from its definition alone."""
