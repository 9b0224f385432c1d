"""HOW WELL: fidelity, background and text agreement (methods.md 12)."""
