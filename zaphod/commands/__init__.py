"""What the `zaphod` command can do, one module for each kind of thing."""
