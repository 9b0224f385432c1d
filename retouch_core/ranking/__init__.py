"""WHICH: candidate scores and ranking (methods.md 11)."""
