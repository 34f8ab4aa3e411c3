"""The training loop, with what it is given."""
