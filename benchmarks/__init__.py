"""Measurements of the simulator's own speed; each file runs by itself and prints one line or table."""
