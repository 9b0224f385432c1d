"""Learnable regions (S01, methods.md 7): anchors, boxes around them, and which box of each anchor to edit."""
