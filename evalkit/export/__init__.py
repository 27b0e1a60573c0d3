"""Checkpoints as folders that other tools load without evalkit."""
