"""Offline work on models and data. Needs the extra ``etacore[train]``; nothing at serving time imports it."""
