"""Tensors as they travel: what is legal (`checks`), how layouts convert (`convert`), and the `Regions` value."""
