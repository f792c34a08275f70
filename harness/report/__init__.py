"""Records to text: what a person sees in the terminal."""
