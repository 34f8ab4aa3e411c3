"""Quantizers on a torch module."""
