"""Wrong programs, made of right ones by one change each."""
