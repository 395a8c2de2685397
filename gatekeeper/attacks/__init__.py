"""Backdoors to plant: for calibration, tests and the demo alone."""
