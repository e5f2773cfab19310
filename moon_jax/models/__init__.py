"""The encoder (ViT -> projector -> decoder) and the CTR model."""
