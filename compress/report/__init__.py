"""What a person reads: pictures, the model card, the result folder. Computes nothing."""
