"""Rows, tables, plots: what a run leaves behind, read back and drawn."""
