"""What the commands that train run, all as jobs."""
