"""Networks that find the entities of a picture without naming them."""
