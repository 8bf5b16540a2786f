"""What reports are made of: figures, pictures and pages that need nothing else."""
