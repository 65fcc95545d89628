"""The HTTP service in front of a shared Ray cluster; the only package that imports fastapi."""
