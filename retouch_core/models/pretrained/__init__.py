"""Pretrained networks of the field behind the protocols, one backend a file; read from disk only."""
