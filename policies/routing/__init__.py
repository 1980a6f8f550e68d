"""Routers: which model gets a task or a part."""
