"""What a step costs: our chains by driver, torch.optim and other libraries. Run ``python -m benchmarks``."""
