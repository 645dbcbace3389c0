"""The commands: a module each, and in `options` what they share."""
