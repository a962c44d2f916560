"""The laws of optimizers, by theme; `pliant.testing.optimizer_laws` runs them."""
