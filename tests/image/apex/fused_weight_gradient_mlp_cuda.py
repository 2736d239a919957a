"""Found, never called: see setup.py."""
