"""Families of synthetic tasks: each file owns a seeded generator of Tasks and the solver that simulated models work with."""
