"""On and off a torch module."""
