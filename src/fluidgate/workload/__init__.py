"""Requests: arrival times, lengths, classes, shared prefixes; where they come from."""
