"""The commands about datasets and models: thin shells over `etacore.mlops`, one module a command."""
