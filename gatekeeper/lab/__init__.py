"""The lab: a zoo of clean and planted models with proof, drill models, the fire drill."""
