"""Agents: what a seat is told, how it acts, and what it may use."""
