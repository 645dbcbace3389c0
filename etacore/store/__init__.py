"""Redis: which commands a batch needs, the connection that carries them, and what Redis announces."""
