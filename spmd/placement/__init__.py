"""Where a tensor lives: the mesh, its axes, shardings, what users write for them, and arrays cut and joined by them."""
