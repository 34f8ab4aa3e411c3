"""Trained networks as stored integers."""
