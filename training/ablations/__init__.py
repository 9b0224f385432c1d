"""The ablations that the five papers publish, measured on our test scenes: `python -m training.ablations`."""
