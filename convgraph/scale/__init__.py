"""Scale: images larger than memory, one image on many machines, equal to the whole."""
