"""A world to learn and to measure in: drawn scenes with exact masks and referring phrases, deterministic by seed."""
