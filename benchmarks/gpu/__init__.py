"""What is prepared to be run on machines with GPUs."""
