"""Clean CLIPs that plants and fine-tunes are made of."""
