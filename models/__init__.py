"""What the platform predicts with: features as tensors, networks, losses, metrics, calibration, bundles."""
