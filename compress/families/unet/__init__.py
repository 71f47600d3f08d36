"""U-Nets of diffusers: `common` says what both classes share, the files beside it one matter each."""
