"""From actions to energy, area and lost time."""
