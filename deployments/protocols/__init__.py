"""The languages a prediction may be asked in: each turns a request into columns and predictions into a response.

Nothing is imported here: Ray's proxies load `messages` for gRPC, and need none of what the protocols need.
"""
