"""What policies are made of: the law of lengths, forecasts, look-ahead, pacing."""
