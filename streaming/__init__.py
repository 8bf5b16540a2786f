"""The streaming arm: an actor pool on a queue."""
