"""The allocator engines: NumPy arrays and functions on them; no Jupyter, no Bokeh, no clock, no randomness."""
