"""A simulated city that feeds the real loop through a real Redis, and the view that shows it."""
