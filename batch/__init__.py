"""The batch arm: Ray Data."""
