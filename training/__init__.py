"""How the embedded models are made: a world of drawn scenes, the networks, and their evaluation."""
