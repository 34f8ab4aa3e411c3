"""From actions to what they cost."""
