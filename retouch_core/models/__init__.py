"""Pretrained parts behind small protocols, and the embedded bundle."""
