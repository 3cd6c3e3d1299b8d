"""A diffusion teacher distilled into a one-step generator of images."""
