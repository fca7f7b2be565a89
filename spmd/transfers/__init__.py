"""What takes one sharding to another: collectives and local moves, and the cheapest path of them."""
