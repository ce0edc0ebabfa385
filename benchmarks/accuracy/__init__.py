"""How many images a network gets right, and which labels changed, image by image."""
