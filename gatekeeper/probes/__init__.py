"""The images a scan rests on."""
