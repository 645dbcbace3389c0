"""Models at serving time: what a bundle holds, where it lies, and predictions from it."""
