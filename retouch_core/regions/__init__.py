"""WHERE: entities, views, scores, threshold, location and morphology (methods.md 1-4, 6)."""
