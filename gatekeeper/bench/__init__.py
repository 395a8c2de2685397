"""Detectors, rectifiers and oracles, judged over a zoo beside what others published."""
