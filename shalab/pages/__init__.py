"""What readers see without Python: pages with the trained model in them."""
