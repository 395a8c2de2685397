"""An independent view of what is in an image: regions, and labels grounded in them."""
