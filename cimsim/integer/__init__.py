"""An exported network as a chip stores it, and its numbers; numpy only."""
