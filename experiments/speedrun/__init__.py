"""CIFAR-10 to a one-step generator within a fixed number of minutes on one accelerator, by a fixed measure."""
