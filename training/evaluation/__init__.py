"""Measuring on test scenes: queries, edits, and the table."""
