"""Integers through an array: slices, converters, real cells; no time, no money."""
