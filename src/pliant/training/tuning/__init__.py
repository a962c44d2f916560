"""Tuning: the same number of trials for every method, every trial kept. Needs the packages of `pliant[cli,tune]`."""
