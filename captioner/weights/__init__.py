"""Foreign checkpoints: read without their frameworks, and assigned to our variables strictly."""
