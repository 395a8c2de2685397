"""What is protected, and what a scan must show."""
