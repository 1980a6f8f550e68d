"""Owns the limits of endpoints: what is learned of them, how hosts share it, and who goes next. Pure throughout."""
