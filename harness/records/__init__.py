"""Records and run files: what a number is, how it is stored, read and identified. No torch."""
