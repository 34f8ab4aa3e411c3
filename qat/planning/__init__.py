"""Which format each layer gets."""
