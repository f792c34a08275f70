"""The scripts that made the embedded model: its world, text, training and scores."""
