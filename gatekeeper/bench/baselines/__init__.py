"""What others published, one small module a method, behind one interface."""
