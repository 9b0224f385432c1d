"""Checkpoints of diffusion models off the disk, for the library alone."""
