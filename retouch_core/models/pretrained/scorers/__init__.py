"""Networks that compare pictures with phrases."""
