"""Networks that find what a phrase means."""
