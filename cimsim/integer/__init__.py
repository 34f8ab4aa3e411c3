"""An exported network as a chip stores it: its integers, in numpy only."""
