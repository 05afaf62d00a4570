"""One kernel for reading, multiplying and adding up: Triton's on a GPU, C++ on the CPU."""
