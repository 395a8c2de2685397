"""Does this CLIP carry a backdoor? Detectors, their combination and the oracle's confirmation."""
