"""The front door: the commands of `cimsim`."""
