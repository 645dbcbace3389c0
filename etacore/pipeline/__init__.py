"""From raw snapshots to finished documents, a batch at a time, in columns."""
