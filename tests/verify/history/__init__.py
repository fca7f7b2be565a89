"""Programs that this project once made for workers and that gave wrong numbers, each beside its module."""
