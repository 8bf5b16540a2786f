"""What a served model did: the prediction log, and what came of its predictions."""
