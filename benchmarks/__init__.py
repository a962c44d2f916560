"""Speed, memory and quality of pliant, each against the obvious alternative, in one run: `python -m benchmarks`."""
