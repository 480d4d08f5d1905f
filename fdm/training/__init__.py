"""One training loop for every denoiser, with exact resume."""
