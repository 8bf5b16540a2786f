"""The languages a prediction may be asked in: each turns a request into columns and predictions into a response."""
