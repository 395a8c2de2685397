"""Everything needed to check a decision later."""
