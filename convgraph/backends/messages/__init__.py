"""One message an edge, as PyG writes it: the taught form."""
