"""What we claim, measured beside what users would pick instead."""
