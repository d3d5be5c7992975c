"""Traces of real kernels: read in every layout, told apart, and kept as columns."""
