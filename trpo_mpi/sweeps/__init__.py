"""What `sweep` is made of: which runs there are, where they work, and what came out."""
