"""A network on the chip, as work for the event layer."""
