"""Which solutions do optimizers find? Tasks in sequence, forgetting, ranks and the likeness of classes."""
