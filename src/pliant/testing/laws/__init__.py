"""The laws, by theme. Each is a function that raises `LawViolation` where the law does not hold."""
