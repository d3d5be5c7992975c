"""The Linux per-CPU memory allocator, laid open."""
