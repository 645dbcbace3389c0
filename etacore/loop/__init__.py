"""The prediction loop: whom it serves next, which model it serves, and what it counts."""
