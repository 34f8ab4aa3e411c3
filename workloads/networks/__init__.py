"""Networks with weights, as torch modules."""
