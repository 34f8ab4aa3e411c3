"""Quantizers of activations, and how they sit on a model."""
