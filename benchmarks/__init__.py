"""The suite behind every figure of the README, and the teachers that it runs on."""
