"""WHAT: schedules, guidance, blending, sampling and compositing (methods.md 8, 9)."""
