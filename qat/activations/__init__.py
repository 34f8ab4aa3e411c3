"""Quantizers of activations on a model."""
