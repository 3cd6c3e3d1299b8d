"""Information bottlenecks for regression: accuracy, compression and robustness side by side."""
