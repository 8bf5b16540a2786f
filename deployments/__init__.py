"""The online arm: Ray Serve."""
