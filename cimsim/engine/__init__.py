"""One simulation: place, count, wait, price."""
